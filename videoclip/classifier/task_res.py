"""TaskRes: a residual on each class text."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from videoclip.classifier import Classifier, Clips, Lesson
from videoclip.classifier.parts.learning import Schedule, leaf, learn
from videoclip.layers import unit


class TaskRes(Classifier):
    """Class texts, as the tower gives them, + alpha x a residual (K, D) that starts at zero.

    Source: Yu et al., CVPR 2023, arXiv:2211.10277.

    Args:
        alpha: of the residual, beside texts of their own length.
        lr, epochs, batch: of Adam; 100 epochs to four shots, 200 beyond, when not given.
    """

    def __init__(self, alpha: float = 0.5, lr: float = 2e-3, epochs: int | None = None, batch: int = 256) -> None:
        super().__init__()
        self.alpha, self._schedule = alpha, (lr, epochs, batch)

    def fit(self, lesson: Lesson) -> None:
        """Train the residual."""
        shots, texts = lesson.shots, lesson.texts
        self.keep(scale=lesson.scale)
        base, residual = texts.plain, leaf(torch.zeros_like(texts.plain))
        lr, epochs, batch = self._schedule
        epochs = epochs or (100 if len(shots) <= 4 * len(texts) else 200)
        schedule = Schedule(lr, epochs, batch, "adam", 5e-4, rate="epoch", drop_last=True)

        def backward(index: Tensor) -> None:
            logits = lesson.scale * unit(shots.drawn(index)) @ unit(self.moved(base, residual)).T
            F.cross_entropy(logits, shots.known[index]).backward()

        learn([residual], backward, len(shots), schedule, lesson.seed)
        self.keep(weights=unit(self.moved(base, residual)))

    def moved(self, base: Tensor, residual: Tensor) -> Tensor:
        """Class texts (K, D), not normalised."""
        return base + self.alpha * residual

    def logits(self, clips: Clips) -> Tensor:
        """(N, K)."""
        return self.zero_shot(clips)
