"""ConTra's loss between clips."""

from __future__ import annotations

import torch
from torch import Tensor

from videoclip.loss import Loss, Pairs


class JointSoftmax(Loss):
    """One softmax over a pair's row and column together (ConTra, arXiv:2210.04341).

    The pair itself stands in both, so it counts twice in the denominator. Several positives: the mean over them.
    """

    def forward(self, pairs: Pairs) -> Tensor:
        """A scalar."""
        logits = pairs.logits.masked_fill(pairs.ignored, -torch.inf)
        more = [] if pairs.text_negatives is None else [pairs.text_negatives]
        rivals = torch.cat([logits, logits.T, *more], 1).logsumexp(1)
        own = (pairs.logits * pairs.positive).sum(1) / pairs.positive.sum(1)
        return (rivals - own).mean()
