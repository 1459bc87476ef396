"""CAMoE's loss."""

from __future__ import annotations

import torch
from torch import Tensor

from videoclip.loss import Loss, log_softmax_without, shared_evenly


class DualSoftmax(Loss):
    """Logits times how much each column prefers its row, then cross-entropy (CAMoE, arXiv:2109.04290).

    Args:
        temperature: logits are divided by it before that preference is taken. At the authors' 1000 it is nearly the
            same for all.
    """

    def __init__(self, temperature: float = 1000.0) -> None:
        super().__init__()
        self.temperature = temperature

    def one_way(self, logits: Tensor, positive: Tensor, ignored: Tensor, scale: Tensor) -> Tensor:
        """See ``Loss``; further negatives of the rows have no columns of their own and keep their logits."""
        count = len(logits)
        own, left_out = logits[:, :count], ignored[:, :count]
        prior = (own / self.temperature).masked_fill(left_out, -torch.inf).softmax(0) * (~left_out).sum(0)
        logits = torch.cat([own * prior, logits[:, count:]], 1)
        return -(shared_evenly(positive, logits) * log_softmax_without(logits, ignored)).sum(1)
