"""Contrastive losses over scores. Shapes: Q texts, B videos."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def symmetric_cross_entropy(logits: Tensor, video_ids: Tensor | None = None) -> Tensor:
    """CLIP's loss: the mean of the cross-entropies of texts over videos and of videos over texts.

    Args:
        logits: (B, B), row i is the text of column i's video, already multiplied by the temperature.
        video_ids: (B,) which video each pair belongs to. Pairs of one video are not negatives of each other:
            their off-diagonal entries are left out. Without ids every pair is a video of its own.

    Returns:
        A scalar.
    """
    count = len(logits)
    if video_ids is not None:
        same = video_ids[:, None] == video_ids[None, :]
        same = same & ~torch.eye(count, dtype=torch.bool, device=logits.device)
        logits = logits.masked_fill(same, -math.inf)
    target = torch.arange(count, device=logits.device)
    return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2
