"""CLOOB's loss."""

from __future__ import annotations

import torch
from torch import Tensor

from videoclip.loss import Loss


class InfoLOOB(Loss):
    """The positive against the negatives alone: it is left out of the denominator (CLOOB, arXiv:2110.11316).

    Divided by the temperature's factor, as the authors do. Their Hopfield retrieval before the loss is not part of it.
    A row without any negative counts as zero.
    """

    def one_way(self, logits: Tensor, positive: Tensor, ignored: Tensor, scale: Tensor) -> Tensor:
        """See ``Loss``."""
        negative = ~(positive | ignored)
        some = negative.any(1)
        rivals = logits.masked_fill(~negative & some[:, None], -torch.inf).logsumexp(1)
        own = (logits * positive).sum(1) / positive.sum(1)
        return ((rivals - own) / scale).masked_fill(~some, 0)
