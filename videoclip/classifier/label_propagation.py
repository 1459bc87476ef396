"""ReCLIP's label propagation among clips without labels."""

from __future__ import annotations

import torch
from torch import Tensor

from videoclip.classifier import Classifier, Clips, Lesson, one_hot
from videoclip.classifier.parts.pseudo import propagated
from videoclip.layers import unit


class LabelPropagation(Classifier):
    """Class texts label their neighbours, these theirs; logits are the mean of those of texts and of class means.

    Source: ReCLIP (Hu et al., WACV 2024, arXiv:2308.03793), on features alone: its training of both towers'
    LayerNorms is left out. The mean of a class counts its text, too. No label is read.

    Args:
        neighbours: that each point is bound to.
        keep: how much of what a point receives it passes on.
    """

    needs = frozenset({"unlabelled"})

    def __init__(self, neighbours: int = 20, keep: float = 0.99) -> None:
        super().__init__()
        self.neighbours, self.passed_on = neighbours, keep

    def fit(self, lesson: Lesson) -> None:
        """Propagate."""
        rows, texts = unit(lesson.pool.pooled), lesson.texts.weights
        reached = propagated(rows, texts, self.neighbours, self.passed_on, 250 if len(texts) > 500 else 768)
        shares = one_hot(reached.argmax(1), len(texts))
        means = (shares.T @ rows + texts) / (shares.sum(0)[:, None] + 1)
        self.keep(scale=lesson.scale, weights=texts, means=unit(means))

    def logits(self, clips: Clips) -> Tensor:
        """(N, K)."""
        of_means: Tensor = self.tensors["scale"] * unit(clips.pooled) @ self.tensors["means"].T
        return torch.stack([self.zero_shot(clips), of_means]).mean(0)
