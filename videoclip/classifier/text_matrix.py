"""LABCLIP's text matrix: one linear map of all text vectors."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from videoclip.classifier import Classifier, ClassTexts, Clips, Lesson
from videoclip.classifier.parts.learning import Schedule, leaf, learn
from videoclip.layers import unit


class TextMatrix(Classifier):
    """Cosines with L t in place of t, where L (D, D) starts as the identity; the clips' side stays.

    Source: LABCLIP (Koishigarina et al., 2025, arXiv:2502.03566; read in a third party's copy). There captions are
    contrasted with captions whose words were exchanged, and the scale starts at 1; here every clip is contrasted with
    all class texts, and the scale starts as the backbone's.

    Args:
        lr, epochs, batch: of Adam.
    """

    def __init__(self, lr: float = 1e-3, epochs: int = 50, batch: int = 128) -> None:
        super().__init__()
        self.schedule = Schedule(lr, epochs, batch, "adam", 0.0, rate="constant")

    def fit(self, lesson: Lesson) -> None:
        """Train matrix and scale."""
        shots, texts = lesson.shots, lesson.texts.weights
        matrix, scale = leaf(torch.eye(texts.shape[1])), leaf(torch.tensor(lesson.scale).log())

        def backward(index: Tensor) -> None:
            logits = scale.exp() * unit(shots.drawn(index)) @ unit(texts @ matrix.T).T
            F.cross_entropy(logits, shots.known[index]).backward()

        learn([matrix, scale], backward, len(shots), self.schedule, lesson.seed)
        self.keep(matrix=matrix, scale=scale.exp(), weights=unit(texts @ matrix.T))

    def logits(self, clips: Clips) -> Tensor:
        """(N, K)."""
        return self.zero_shot(clips)

    def transferred(self, texts: ClassTexts) -> Classifier:
        """Other texts through the same matrix."""
        other = TextMatrix()
        other.keep(**{**self.tensors, "weights": unit(texts.weights @ self.tensors["matrix"].T)})
        return other
