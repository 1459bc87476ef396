"""R-Adapter's loss."""

from __future__ import annotations

from torch import Tensor

from videoclip.loss import Loss, log_softmax_without, shared_evenly


class MPMNCE(Loss):
    """Multi-positive margin NCE (R-Adapter, Kim et al., 2024, arXiv:2408.05749).

    Soft targets over all positives of a row, and a margin that makes negatives look nearer than they are.

    Args:
        smoothing: share of the target that the negatives divide. The authors' commands have 0.02 for ImageNet and 0
            for retrieval; the loss itself was read in descriptions, not in their code.
        margin: added to the cosines of negatives.
    """

    def __init__(self, smoothing: float = 0.0, margin: float = 0.05) -> None:
        super().__init__()
        self.smoothing, self.margin = smoothing, margin

    def one_way(self, logits: Tensor, positive: Tensor, ignored: Tensor, scale: Tensor) -> Tensor:
        """See ``Loss``."""
        negative = ~(positive | ignored)
        right, wrong = shared_evenly(positive, logits), shared_evenly(negative, logits)
        target = (1 - self.smoothing) * right + self.smoothing * wrong
        return -(target * log_softmax_without(logits + self.margin * scale * negative, ignored)).sum(1)
