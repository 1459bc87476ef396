"""ProKeR: kernel ridge regression of what the class texts get wrong."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from videoclip.classifier import Classifier, Clips, Lesson, one_hot, right
from videoclip.classifier.parts.cache import affinity
from videoclip.classifier.parts.search import Found, first_best, inclusive
from videoclip.layers import unit


class Proker(Classifier):
    """Cosines with the class texts + kernel(clip, labelled clips) x coefficients, kernel exp(-beta (1 - cosine)).

    Source: Bendou et al., CVPR 2025, arXiv:2501.11175 (read through a fork). Cosines are not scaled, so they and the
    labels' 0 and 1 are of one size.

    Args:
        beta, ridge: where nothing can be searched; the fork's values for four shots, chosen on ImageNet.
        beta_min, beta_max, beta_steps, ridge_min, ridge_max, ridge_steps: the grid, ends included; UCF101's.
        passes: ``mean`` averages a clip's augmented passes; ``all`` takes each as a clip, as the authors do, which
            costs the cube of their number.
    """

    def __init__(
        self,
        beta: float = 1.5,
        ridge: float = 0.05,
        beta_min: float = 0.5,
        beta_max: float = 3.0,
        beta_steps: int = 20,
        ridge_min: float = 0.001,
        ridge_max: float = 1.0,
        ridge_steps: int = 10,
        passes: Literal["mean", "all"] = "mean",
    ) -> None:
        super().__init__()
        self.start = {"beta": beta, "ridge": ridge}
        self.grid = {
            "beta": inclusive(beta_min, beta_max, beta_steps),
            "ridge": inclusive(ridge_min, ridge_max, ridge_steps),
        }
        self.passes = passes

    def fit(self, lesson: Lesson) -> None:
        """Search beta and ridge, then solve for the coefficients."""
        shots, weights = lesson.shots, lesson.texts.weights
        every = self.passes == "all"
        keys = unit(shots.passes.flatten(0, 1)) if every else unit(unit(shots.passes).mean(0))
        labels = shots.known.repeat(len(shots.passes) if every else 1)
        residual = one_hot(labels, len(weights)) - keys @ weights.T
        self.keep(scale=lesson.scale, weights=weights, keys=keys)
        self.choose(self._search(residual, lesson.validation))
        values = self.found.values if self.found else self.start
        self.keep(coefficients=coefficients(keys, residual, values["beta"], values["ridge"]))

    def _search(self, residual: Tensor, validation: Clips | None) -> Found:
        """One eigendecomposition for each beta serves every ridge."""
        if validation is None:
            return Found(self.start)
        keys, rows, labels = self.tensors["keys"], unit(validation.pooled), validation.known
        base, cosines, among = rows @ self.tensors["weights"].T, rows @ keys.T, keys @ keys.T
        counts = torch.zeros([len(tried) for tried in self.grid.values()], dtype=torch.long)
        for place, beta in enumerate(self.grid["beta"]):
            values, vectors = torch.linalg.eigh(affinity(among, beta))
            seen, wanted = affinity(cosines, beta) @ vectors, vectors.T @ residual
            for column, ridge in enumerate(self.grid["ridge"]):
                logits = base + seen @ (wanted / (values / ridge + 1)[:, None])
                counts[place, column] = right(logits, labels)
        return first_best(self.grid, counts, len(validation), self.start)

    def logits(self, clips: Clips) -> Tensor:
        """(N, K), of the size of cosines."""
        own, rows = self.tensors, unit(clips.pooled)
        return rows @ own["weights"].T + affinity(rows @ own["keys"].T, own["beta"]) @ own["coefficients"]

    def probabilities(self, clips: Clips) -> Tensor:
        """(N, K), the softmax of the logits times the backbone's scale, without which it would be nearly even."""
        return (self.tensors["scale"] * self.logits(clips)).softmax(1)


def coefficients(keys: Tensor, residual: Tensor, beta: float, ridge: float) -> Tensor:
    """The solution (M, K) of (kernel / ridge + identity) x = residual, for keys (M, D)."""
    kernel = affinity(keys @ keys.T, beta) / ridge + torch.eye(len(keys))
    return torch.linalg.solve(kernel, residual)
