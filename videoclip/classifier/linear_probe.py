"""Logistic regression on the pooled vectors."""

from __future__ import annotations

import warnings

import numpy as np
import torch
from torch import Tensor

from videoclip.classifier import Classifier, Clips, Lesson, right
from videoclip.classifier.parts.search import Found, first_best
from videoclip.errors import VideoclipError
from videoclip.layers import unit

STRENGTHS = [10.0**power for power in range(-2, 7)]


class LinearProbe(Classifier):
    """scikit-learn's logistic regression on vectors of unit length; class texts take no part.

    The linear probe of CLIP (arXiv:2103.00020); every augmented pass counts as a clip.

    Args:
        strength: inverse of the regularisation (scikit-learn's C) where nothing can be searched.
    """

    def __init__(self, strength: float = 10.0) -> None:
        super().__init__()
        self.start = {"strength": strength}

    def fit(self, lesson: Lesson) -> None:
        """Search the strength on validation clips, and fit.

        Raises:
            VideoclipError: scikit-learn is not installed.
        """
        passes = lesson.shots.passes
        rows, labels = unit(passes.flatten(0, 1)).numpy(), lesson.shots.known.repeat(len(passes)).numpy()
        found = Found(self.start)
        if lesson.validation is not None:
            counts = []
            for strength in STRENGTHS:
                self._regress(rows, labels, strength)
                counts.append(right(self.logits(lesson.validation), lesson.validation.known))
            grid = {"strength": STRENGTHS}
            found = first_best(grid, torch.tensor(counts), len(lesson.validation), self.start)
        self._regress(rows, labels, found.values["strength"])
        self.choose(found)

    def _regress(self, rows: np.ndarray, labels: np.ndarray, strength: float) -> None:
        try:
            from sklearn.exceptions import ConvergenceWarning
            from sklearn.linear_model import LogisticRegression
        except ImportError as error:
            raise VideoclipError("linear_probe needs scikit-learn: pip install 'videoclip[classify]'.") from error
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            fitted = LogisticRegression(C=strength, max_iter=1000).fit(rows, labels)
        slopes, offsets = torch.from_numpy(fitted.coef_).float(), torch.from_numpy(fitted.intercept_).float()
        if len(slopes) == 1:  # of two classes the second one's against the first
            slopes, offsets = torch.cat([-slopes, slopes]) / 2, torch.cat([-offsets, offsets]) / 2
        self.keep(slopes=slopes, offsets=offsets)

    def logits(self, clips: Clips) -> Tensor:
        """(N, K)."""
        return unit(clips.pooled) @ self.tensors["slopes"].T + self.tensors["offsets"]
