"""ActionCLIP's loss."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from videoclip.loss import Loss, log_softmax_without


class LabelKL(Loss):
    """Kullback-Leibler divergence from targets that are a softmax of what belongs together.

    For batches in which labels repeat: ActionCLIP (arXiv:2109.08472), also M2-CLIP's contrastive part. Use it with
    ``train.same_pairs: positive``.

    Args:
        sharpness: what positives are multiplied by before that softmax. At the authors' 10 a negative's target is
            not quite zero.
    """

    def __init__(self, sharpness: float = 10.0) -> None:
        super().__init__()
        self.sharpness = sharpness

    def one_way(self, logits: Tensor, positive: Tensor, ignored: Tensor, scale: Tensor) -> Tensor:
        """See ``Loss``."""
        target = (self.sharpness * positive.to(logits)).masked_fill(ignored, -torch.inf).softmax(1)
        return F.kl_div(log_softmax_without(logits, ignored), target, reduction="none").sum(1)
