"""Recognition: accuracies, calibration, confusion. Shapes: N clips, K classes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from videoclip.errors import DataError
from videoclip.metrics.bootstrap import bootstrap_interval

BINS = 15  # of the calibration error


@dataclass(frozen=True)
class Recognition:
    """Predictions for clips, and what they amount to.

    Attributes:
        probabilities: (N, K).
        labels: (N,) the true classes.
    """

    probabilities: Tensor
    labels: Tensor

    def __post_init__(self) -> None:
        if not torch.isfinite(self.probabilities).all():
            clip = int(torch.nonzero(~torch.isfinite(self.probabilities))[0, 0])
            raise DataError(
                f"A prediction for clip {clip} is NaN or infinite: the classifier or the features are broken."
            )

    @property
    def hits(self) -> np.ndarray:
        """100 where the most probable class is the right one, 0 elsewhere (N,); the first of equal ones counts."""
        return 100.0 * (self.probabilities.argmax(1) == self.labels).numpy()

    @property
    def confusion(self) -> Tensor:
        """(K, K) counts: rows are true classes, columns predicted ones."""
        count = self.probabilities.shape[1]
        pairs = self.labels * count + self.probabilities.argmax(1)
        return pairs.bincount(minlength=count * count).view(count, count)

    def metrics(self) -> dict[str, float]:
        """In per cent: ``top-1``, ``top-5``, ``mean_class`` (mean over classes of their accuracy), and
        ``calibration_error`` (expected, 15 bins of equal width).
        """
        counts = self.confusion
        there = counts.sum(1) > 0
        per_class = counts.diagonal()[there] / counts.sum(1)[there]
        best = self.probabilities.topk(min(5, self.probabilities.shape[1]), 1).indices
        return {
            "top-1": float(self.hits.mean()),
            "top-5": 100 * float((best == self.labels[:, None]).any(1).double().mean()),
            "mean_class": 100 * float(per_class.double().mean()),
            "calibration_error": calibration_error(self.probabilities, self.labels),
        }

    def summary(self) -> dict[str, Any]:
        """Metrics, the 95 % bootstrap interval of top-1 over clips, and how many clips there are."""
        return {**self.metrics(), "interval": list(bootstrap_interval(self.hits)), "clips": len(self.labels)}


def calibration_error(probabilities: Tensor, labels: Tensor) -> float:
    """Expected calibration error in per cent: the mean distance of confidence and accuracy over bins of confidence."""
    confidence, predicted = probabilities.double().max(1)
    correct = (predicted == labels).double()
    bins = (confidence * BINS).long().clamp(max=BINS - 1)
    gaps = torch.zeros(BINS, dtype=torch.double).index_add_(0, bins, confidence - correct)
    return 100 * float(gaps.abs().sum()) / len(labels)


def harmonic_mean(first: float, second: float) -> float:
    """0 where one of them is."""
    return 2 * first * second / (first + second) if first and second else 0.0
