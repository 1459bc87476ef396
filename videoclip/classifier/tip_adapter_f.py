"""Tip-Adapter-F: Tip-Adapter with trained keys."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from videoclip.classifier import Lesson, right
from videoclip.classifier.parts.learning import Schedule, leaf, learn
from videoclip.classifier.tip_adapter import TipAdapter


class TipAdapterF(TipAdapter):
    """Tip-Adapter whose keys learn by cross-entropy at the start values of beta and alpha; then both are searched.

    Source: Zhang et al., ECCV 2022, arXiv:2207.09519. The authors choose the epoch on the test clips; here it is
    chosen on validation clips, and is the last one without any. A batch draws one augmented pass of each clip.

    Args:
        lr, epochs, batch: of AdamW with eps 1e-4, falling as a cosine.
        options: of ``tip_adapter``.
    """

    def __init__(
        self,
        lr: float = 1e-3,
        epochs: int = 20,
        batch: int = 256,
        beta: float = 1.0,
        alpha: float = 3.0,
        beta_max: float = 7.0,
        alpha_max: float = 3.0,
        beta_steps: int = 200,
        alpha_steps: int = 20,
    ) -> None:
        super().__init__(beta, alpha, beta_max, alpha_max, beta_steps, alpha_steps)
        self.schedule = Schedule(lr, epochs, batch, eps=1e-4)

    def fit(self, lesson: Lesson) -> None:
        """Train the keys, keep the best epoch's, search beta and alpha."""
        shots, validation = lesson.shots, lesson.validation
        super().fit(Lesson(lesson.texts, lesson.scale, shots))
        keys = leaf(self.tensors["keys"])

        def backward(index: Tensor) -> None:
            F.cross_entropy(self.with_keys(keys, shots.drawn(index)), shots.known[index]).backward()

        def score() -> float:
            assert validation is not None
            with torch.no_grad():
                return right(self.with_keys(keys, validation.pooled), validation.known)

        learn([keys], backward, len(shots), self.schedule, lesson.seed, score=score if validation else None)
        self.keep(keys=keys)
        self.choose(self.search(validation))

    def with_keys(self, keys: Tensor, pooled: Tensor) -> Tensor:
        """Logits (N, K) of pooled clips (N, D) with keys (M, D) at the start values."""
        return self.score(pooled, keys, self.tensors["weights"], self.tensors["values"])
