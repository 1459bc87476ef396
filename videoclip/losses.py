"""Losses over scores and embeddings. Shapes: Q texts, B videos, N rows, C candidates, D joint width."""

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


def joint_softmax(logits: Tensor) -> Tensor:
    """ConTra's contrastive loss (arXiv:2210.04341): one softmax over a pair's row and column of logits (B, B) together.

    The pair itself stands in both, so it counts twice in the denominator.
    """
    rivals = torch.cat([logits, logits.T], 1).logsumexp(1)
    return (rivals - logits.diagonal()).mean()


def hard_negative(positive: Tensor, negative: Tensor) -> Tensor:
    """ConTra's neighbour loss: cross-entropy of each pair's logit (N,) against one hard negative's (N,)."""
    return F.softplus(negative - positive).mean()


def uniformity(embeddings: Tensor) -> Tensor:
    """How evenly embeddings (N, D) of unit length lie on the sphere: log of the mean of exp(-2 squared distance).

    Over all pairs of rows (Wang and Isola, 2020, arXiv:2005.10242), as ConTra uses it.
    """
    squared = F.pdist(embeddings).square()
    return (-2 * squared).exp().mean().log()


def channel_decorrelation(first: Tensor, second: Tensor, diagonal: float, off_diagonal: float) -> Tensor:
    """DRL's channel decorrelation regulariser (arXiv:2203.07111) of paired rows (N, D).

    Channels are standardised over the rows; their cross-correlation should be the identity.

    Args:
        first, second: row i of one belongs to row i of the other.
        diagonal, off_diagonal: weights of the squared distances from one and from zero.
    """
    correlation = standardised(first).T @ standardised(second) / len(first)
    return distance_from_identity(correlation, diagonal, off_diagonal)


def standardised(rows: Tensor) -> Tensor:
    """rows (N, D), each channel with mean 0 and unbiased deviation 1 over the rows."""
    return (rows - rows.mean(0)) / rows.std(0).clamp(min=1e-12)


def distance_from_identity(matrix: Tensor, diagonal: float, off_diagonal: float) -> Tensor:
    """Weighted squared distances of a matrix (D, D) from the identity, summed."""
    squares = matrix.square()
    own = matrix.diagonal()
    return diagonal * (own - 1).square().sum() + off_diagonal * (squares.sum() - squares.diagonal().sum())


def multiple_choice_hinge(scores: Tensor, answers: Tensor) -> Tensor:
    """Tem-Adapter's hinge loss (arXiv:2308.08414): sum over all candidates of max(0, 1 + score - the right score).

    As in the authors' code the right candidate takes part, so that B is the least the loss can be.

    Args:
        scores: (B, C) of C candidates a video.
        answers: (B,) index of the right one.
    """
    right = scores.gather(1, answers[:, None])
    return (1 + scores - right).clamp(min=0).sum()
