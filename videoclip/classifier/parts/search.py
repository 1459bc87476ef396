"""One search over hyper-parameters on validation clips: the first best point of a stated grid.

A method fills a table of how many validation clips each point of its grid gets right, in whatever order is cheapest;
which point wins depends on the table alone. Shapes: N clips, K classes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from videoclip.errors import ConfigError

Grid = Mapping[str, Sequence[float]]


@dataclass(frozen=True)
class Found:
    """What a search found.

    Attributes:
        values: of each hyper-parameter.
        accuracy: on the validation clips, in per cent; None without any, where ``values`` are the defaults.
        clips: how many validation clips there were.
        grid: values tried, in the order in which the first best wins, the last one turning fastest.
        on_edge: hyper-parameters whose value is the least or the greatest that was tried; widen their range.
    """

    values: dict[str, float]
    accuracy: float | None = None
    clips: int = 0
    grid: dict[str, list[float]] = field(default_factory=dict)
    on_edge: tuple[str, ...] = ()

    def summary(self) -> dict[str, Any]:
        """Ready for JSON: every grid as its ends and how many points lie between."""
        grid = {name: {"from": tried[0], "to": tried[-1], "points": len(tried)} for name, tried in self.grid.items()}
        return {"values": self.values, "accuracy": self.accuracy, "clips": self.clips, "grid": grid} | (
            {"on_edge": list(self.on_edge)} if self.on_edge else {}
        )


def first_best(grid: Grid, right: Tensor, clips: int, start: Mapping[str, float]) -> Found:
    """The point with the most clips right; of equal ones the first in the grid's order.

    Args:
        grid: values of each hyper-parameter.
        right: a count for each point, one axis for each hyper-parameter.
        clips: of how many.
        start: what stays if no point gets anything right.
    """
    tried = {name: [float(v) for v in values] for name, values in grid.items()}
    counts = right.reshape([len(values) for values in tried.values()]).numpy()
    best = np.unravel_index(int(counts.argmax()), counts.shape)
    if not counts.max():
        return Found(dict(start), 0.0, clips, tried)
    values = {name: points[place] for (name, points), place in zip(tried.items(), best, strict=True)}
    edge = tuple(n for n, points in tried.items() if len(points) > 1 and values[n] in (min(points), max(points)))
    return Found(values, 100 * float(counts.max()) / clips, clips, tried, edge)


def right_along(base: Tensor, extra: Tensor, shares: Sequence[float], labels: Tensor) -> Tensor:
    """How many labels (N,) are highest in base + share x extra, both (N, K), for each share: (S,)."""
    logits, counts = torch.empty_like(base), torch.zeros(len(shares), dtype=torch.long)
    for number, share in enumerate(shares):
        torch.add(base, extra, alpha=share, out=logits)
        counts[number] = (logits.argmax(1) == labels).sum()
    return counts


def steps(low: float, high: float, count: int) -> list[float]:
    """``count`` values from ``low`` on; ``high`` itself is not reached (the Tip-Adapter family's grid)."""
    if count < 1:
        raise ConfigError("classifier", ["a grid needs at least one step"])
    return [low + number * (high - low) / count for number in range(count)]


def inclusive(low: float, high: float, count: int) -> list[float]:
    """``count`` evenly spaced values from ``low`` to ``high``."""
    if count < 1:
        raise ConfigError("classifier", ["a grid needs at least one step"])
    return torch.linspace(low, high, count).tolist()
