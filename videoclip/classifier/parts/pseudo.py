"""Pseudo-labels: which clips without labels serve as examples of which class.

Shapes: N clips, K classes, D joint width.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from videoclip.layers import unit


def most_confident(probabilities: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Of each predicted class the ``count`` clips it is most probable for (UPL).

    Args:
        probabilities: (N, K).

    Returns:
        Numbers (n,) of the clips in order of their classes, and their labels (n,). A class that no clip is predicted
        as has none.
    """
    highest, predicted = probabilities.max(1)
    numbers, labels = [], []
    for label in predicted.unique().tolist():
        own = (predicted == label).nonzero()[:, 0]
        best = own[highest[own].argsort(descending=True, stable=True)[:count]]
        numbers.append(best)
        labels.append(torch.full_like(best, label))
    return torch.cat(numbers), torch.cat(labels)


def boards(probabilities: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Every class's board of at most ``count`` clips, each clip on at most one (FPL, GRIP).

    A clip asks its most probable class first, and the next one where a board is full of clips to which that class is
    more probable; whom a better clip drives out asks on. The result does not depend on the order of the clips.

    Returns:
        As ``most_confident``.
    """
    wishes = probabilities.argsort(dim=1, descending=True, stable=True).tolist()
    held: list[list[tuple[float, int]]] = [[] for _ in range(probabilities.shape[1])]
    asking = [(number, 0) for number in range(len(wishes))]
    rows = probabilities.tolist()
    while asking:
        number, wish = asking.pop()
        if wish == len(held):
            continue
        label = wishes[number][wish]
        held[label].append((-rows[number][label], number))
        held[label].sort()
        if len(held[label]) > count:
            _, out = held[label].pop()
            asking.append((out, wishes[out].index(label) + 1))
    pairs = [(number, label) for label, board in enumerate(held) for _, number in board]
    numbers, labels = torch.tensor(pairs).reshape(-1, 2).unbind(1)
    return numbers, labels


def propagated(rows: Tensor, texts: Tensor, neighbours: int = 20, keep: float = 0.99, directions: int = 768) -> Tensor:
    """ReCLIP's label propagation: how strongly each class reaches each clip through its neighbours.

    Source: Hu et al., WACV 2024, arXiv:2308.03793. Clips (N, D) and texts (K, D), of unit length, are projected on what
    spans the texts, without its first direction, which they share; each is bound to its nearest neighbours.

    Args:
        neighbours: kept of each row.
        keep: how much of what a point receives it passes on.
        directions: of the texts' span, at most.

    Returns:
        (N, K).
    """
    span = torch.linalg.svd(texts.T, full_matrices=False)[0][:, 1:directions]
    points = unit(torch.cat([texts, rows]) @ span @ span.T)
    edges = _edges(points, neighbours)
    degrees = torch.sparse.sum(edges, 1).to_dense().clamp(min=1e-12).rsqrt()
    seeds = torch.eye(len(points), len(texts))

    def passed(z: Tensor) -> Tensor:
        """(I - keep x normalised edges) z."""
        return z - keep * degrees[:, None] * torch.sparse.mm(edges, degrees[:, None] * z)

    return _conjugate_gradient(passed, seeds)[len(texts) :]


def _edges(points: Tensor, neighbours: int) -> Tensor:
    """Sparse symmetric (n, n): (cosine + 1) / 2 with the nearest neighbours, the mean of both ways."""
    count, places, values = min(neighbours, len(points) - 1), [], []
    for start in range(0, len(points), 1024):
        near = (points[start : start + 1024] @ points.T + 1) / 2
        own = torch.arange(start, start + len(near))
        near[torch.arange(len(near)), own] = -1
        best = near.topk(count, 1)
        places.append(torch.stack([own[:, None].expand(-1, count), best.indices]).flatten(1))
        values.append(best.values.flatten() / 2)
    place, value = torch.cat(places, 1), torch.cat(values)
    both = torch.cat([place, place.flip(0)], 1), torch.cat([value, value])
    return torch.sparse_coo_tensor(*both, size=(len(points), len(points)), check_invariants=False).coalesce()


def _conjugate_gradient(
    apply: Callable[[Tensor], Tensor], target: Tensor, rounds: int = 20, tolerance: float = 1e-6
) -> Tensor:
    """Solve apply(z) = target, each column (n, K) on its own."""
    solved, rest = torch.zeros_like(target), target.clone()
    direction, squares = rest.clone(), rest.square().sum(0)
    for _ in range(rounds):
        moved = apply(direction)
        step = squares / (direction * moved).sum(0).clamp(min=1e-30)
        solved, rest = solved + step * direction, rest - step * moved
        now = rest.square().sum(0)
        if now.max().sqrt() < tolerance:
            break
        direction, squares = rest + now / squares.clamp(min=1e-30) * direction, now
    return solved
