"""Intervals and verdicts by the bootstrap over queries."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def bootstrap_interval(values: Sequence[float] | np.ndarray, seed: int = 0, samples: int = 2000) -> tuple[float, float]:
    """95 % interval of the mean of ``values`` (one per query): percentiles over resampled queries."""
    array = np.asarray(values, float)
    generator = np.random.default_rng(seed)
    means = [array[generator.integers(len(array), size=len(array))].mean() for _ in range(samples)]
    low, high = np.percentile(means, [2.5, 97.5])
    return float(low), float(high)


def with_interval(value: float, interval: Sequence[float]) -> str:
    """``41.7 [36.0, 47.0]``: a figure and its interval, as tables show them."""
    low, high = interval
    return f"{value:.1f} [{low:.1f}, {high:.1f}]"


def verdict(interval: Sequence[float]) -> str:
    """``better``, ``worse`` or ``cannot tell``, by the 95 % interval of the mean of paired differences."""
    low, high = interval
    return "better" if low > 0 else "worse" if high < 0 else "cannot tell"
