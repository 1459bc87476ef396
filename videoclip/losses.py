"""Contrastive losses over scores. Shapes: Q texts, B videos."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def symmetric_cross_entropy(
    logits: Tensor, video_ids: Tensor | None = None, text_negatives: Tensor | None = None
) -> Tensor:
    """CLIP's loss: the mean of the cross-entropies of texts over videos and of videos over texts.

    Args:
        logits: (B, B), row i is the text of column i's video, already multiplied by the temperature.
        video_ids: (B,) which video each pair belongs to. Pairs of one video are not negatives of each other:
            their off-diagonal entries are left out. Without ids every pair is a video of its own.
        text_negatives: (B, N) logits of each text with N more videos that it does not describe.

    Returns:
        A scalar.
    """
    count = len(logits)
    if video_ids is not None:
        same = video_ids[:, None] == video_ids[None, :]
        same = same & ~torch.eye(count, dtype=torch.bool, device=logits.device)
        logits = logits.masked_fill(same, -math.inf)
    target = torch.arange(count, device=logits.device)
    rows = logits if text_negatives is None else torch.cat([logits, text_negatives], 1)
    return (F.cross_entropy(rows, target) + F.cross_entropy(logits.T, target)) / 2
