"""The cache of the Tip-Adapter family: keys and values of the support, and how near a clip lies to each key.

Shapes: N clips, M support clips, K classes, D joint width.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor

from videoclip.classifier.parts.search import Found, first_best, right_along
from videoclip.layers import unit


def keys_of(passes: Tensor) -> Tensor:
    """(M, D) of unit length: the mean over the passes (V, M, D), as they are, of each support clip."""
    return unit(passes.mean(0))


def affinity(cosines: Tensor, beta: float | Tensor) -> Tensor:
    """exp(-beta (1 - cosine)) of any shape."""
    return torch.exp(beta * (cosines - 1))


def affinities(cosines: Tensor, betas: Sequence[float]) -> Iterator[Tensor]:
    """``affinity`` for one beta after the other, all in the same memory."""
    out, distance = torch.empty_like(cosines), cosines - 1
    for beta in betas:
        torch.mul(distance, beta, out=out)
        yield out.exp_()


def divergence(queries: Tensor, support: Tensor) -> Tensor:
    """Kullback-Leibler divergence of each support row's distribution (M, K) from each query's (N, K): (N, M)."""
    return (queries * queries.log()).sum(1, keepdim=True) - queries @ support.log().T


def search_cache(
    base: Tensor,
    cosines: Tensor,
    values: Tensor,
    grid: Mapping[str, Sequence[float]],
    labels: Tensor,
    start: Mapping[str, float],
) -> Found:
    """The first best beta and alpha of base (N, K) + alpha x affinity(cosines (N, M), beta) x values (M, K).

    Each affinity is computed once for all alphas.
    """
    counts = [right_along(base, near @ values, grid["alpha"], labels) for near in affinities(cosines, grid["beta"])]
    return first_best(grid, torch.stack(counts), len(labels), start)
