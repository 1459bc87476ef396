"""SigLIP's loss."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from videoclip.loss import Loss


class Sigmoid(Loss):
    """Every pair a yes or no of its own (SigLIP, Zhai et al., 2023, arXiv:2303.15343); summed over a row's pairs.

    The temperature is the model's. The authors start it at 10, CLIP's own lies near 100.

    Args:
        bias: first value of the learned number that is added to all logits.
    """

    def __init__(self, bias: float = -10.0) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.tensor(bias))

    def one_way(self, logits: Tensor, positive: Tensor, ignored: Tensor, scale: Tensor) -> Tensor:
        """See ``Loss``."""
        signed = torch.where(positive, logits + self.bias, -(logits + self.bias))
        return -F.logsigmoid(signed).masked_fill(ignored, 0).sum(1)
