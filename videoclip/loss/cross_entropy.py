"""CLIP's loss."""

from __future__ import annotations

from torch import Tensor

from videoclip.loss import Loss, log_softmax_without, shared_evenly


class CrossEntropy(Loss):
    """Cross-entropy over rows and over columns (CLIP, arXiv:2103.00020); several positives share the target evenly."""

    def one_way(self, logits: Tensor, positive: Tensor, ignored: Tensor, scale: Tensor) -> Tensor:
        """See ``Loss``."""
        return -(shared_evenly(positive, logits) * log_softmax_without(logits, ignored)).sum(1)
