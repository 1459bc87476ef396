"""CLIP's own classifier: class texts, nothing learned."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from videoclip.classifier import Classifier, ClassTexts, Clips, Lesson
from videoclip.errors import DataError
from videoclip.layers import unit


class ZeroShot(Classifier):
    """Cosines of a clip with the class texts (CLIP, arXiv:2103.00020).

    Args:
        ensemble: of several sentences a class: ``embeddings`` averages their vectors, as CLIP does;
            ``probabilities`` averages the softmaxes of the first sentences of all classes, the second ones, and so on,
            as ActionCLIP (arXiv:2109.08472) tests. That needs equally many for each class.
    """

    needs = frozenset()

    def __init__(self, ensemble: Literal["embeddings", "probabilities"] = "embeddings") -> None:
        super().__init__()
        self.ensemble = ensemble

    def fit(self, lesson: Lesson) -> None:
        """Keep the class texts."""
        self._take(lesson.texts, lesson.scale)

    def logits(self, clips: Clips) -> Tensor:
        """(N, K); of ``probabilities`` their logarithms."""
        if self.ensemble == "embeddings":
            return self.zero_shot(clips)
        cosines = torch.einsum("nd,pkd->npk", unit(clips.pooled), self.tensors["sentences"])
        return (self.tensors["scale"] * cosines).softmax(-1).mean(1).log()

    def transferred(self, texts: ClassTexts) -> Classifier:
        """The texts of the other classes."""
        other = ZeroShot(self.ensemble)
        other._take(texts, float(self.tensors["scale"]))
        return other

    def _take(self, texts: ClassTexts, scale: float) -> None:
        self.keep(scale=scale)
        if self.ensemble == "embeddings":
            self.keep(weights=texts.weights)
        else:
            if len({len(rows) for rows in texts.sentences}) > 1:
                raise DataError("ensemble=probabilities needs equally many sentences about every class.")
            self.keep(sentences=torch.stack([unit(rows) for rows in texts.sentences], 1))
