"""DiHT's loss."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from videoclip.loss import Loss


class HardNegative(Loss):
    """Negatives weighted by how near they are (HN-NCE of DiHT, Radenovic et al., CVPR 2023, arXiv:2301.02280).

    A row's weights have the mean 1, so ``hardness: 0`` and ``positive: 1`` is CLIP's loss. Several positives count
    each by itself, and the row takes their mean.

    Args:
        hardness: exponent of the weights, beta in the paper, whose value could not be verified.
        positive: factor of the positive in the denominator, alpha in the paper.
    """

    def __init__(self, hardness: float = 0.25, positive: float = 1.0) -> None:
        super().__init__()
        self.hardness, self.positive = hardness, positive

    def one_way(self, logits: Tensor, positive: Tensor, ignored: Tensor, scale: Tensor) -> Tensor:
        """See ``Loss``."""
        negative = ~(positive | ignored)
        nothing = torch.finfo(logits.dtype).min / 4  # in place of minus infinity, whose gradient is not a number
        weight = (self.hardness * logits).masked_fill(~negative, nothing)
        weight = weight.log_softmax(1) + negative.sum(1, keepdim=True).clamp(min=1).to(logits).log()
        rivals = (logits + weight).masked_fill(~negative, nothing).logsumexp(1, keepdim=True)
        own = logits + (math.log(self.positive) if self.positive > 0 else nothing)
        each = torch.logaddexp(own, rivals.expand_as(own)) - logits
        return (each * positive).sum(1) / positive.sum(1)
