"""APE: Tip-Adapter on the channels that tell classes apart, with keys weighed by how well they fit their class."""

from __future__ import annotations

import torch
from torch import Tensor

from videoclip.classifier import Classifier, Clips, Lesson, one_hot
from videoclip.classifier.parts.cache import affinities, affinity, keys_of
from videoclip.classifier.parts.search import Found, first_best, right_along, steps
from videoclip.layers import unit


class Ape(Classifier):
    """Zero-shot logits of all channels + alpha x affinity over chosen ones x class x exp(gamma x fit).

    Source: Zhu et al., ICCV 2023, arXiv:2304.01195, the training-free form.

    Args:
        channels: how many stay; 70 % of them when not given (the paper's UCF101: 700 of 1024).
        similarity_weight, variance_weight: of the criterion's two parts, see ``criterion``.
        beta, alpha, gamma: where nothing can be searched.
        beta_max, alpha_max, gamma_max, beta_steps, alpha_steps, gamma_steps: the grid, its ends left out; UCF101's.
    """

    def __init__(
        self,
        channels: int | None = None,
        similarity_weight: float = 0.3,
        variance_weight: float = 0.7,
        beta: float = 1.0,
        alpha: float = 2.0,
        gamma: float = 0.1,
        beta_max: float = 10.0,
        alpha_max: float = 7.0,
        gamma_max: float = 1.5,
        beta_steps: int = 200,
        alpha_steps: int = 20,
        gamma_steps: int = 20,
    ) -> None:
        super().__init__()
        self.channels, self._weights = channels, (similarity_weight, variance_weight)
        self.start = {"beta": beta, "alpha": alpha, "gamma": gamma}
        self.grid = {
            "beta": steps(0.1, beta_max, beta_steps),
            "alpha": steps(0.1, alpha_max, alpha_steps),
            "gamma": steps(0.0, gamma_max, gamma_steps),
        }

    def fit(self, lesson: Lesson) -> None:
        """Choose channels, keep the clips, then search."""
        shots, weights = lesson.shots, lesson.texts.weights
        keys, values = keys_of(shots.passes), one_hot(shots.known, len(weights))
        sums = weights + values.T @ keys
        counts = 1 + values.sum(0)
        chosen = best_channels(criterion(sums, counts, weights, *self._weights), self.channels)
        kept, texts = unit(keys[:, chosen]), unit(weights[:, chosen])
        shares = (kept @ texts.T).softmax(1)
        fit = (values * ((values + 1e-6) / (shares + 1e-6)).log2()).sum(1)
        self.keep(scale=lesson.scale, weights=weights, chosen=chosen, keys=kept, values=values, fit=fit)
        self.choose(self._search(lesson.validation))

    def _search(self, validation: Clips | None) -> Found:
        if validation is None:
            return Found(self.start)
        own, grid = self.tensors, self.grid
        base = self.zero_shot(validation)
        soft = torch.stack([own["values"] * (gamma * own["fit"]).exp()[:, None] for gamma in grid["gamma"]])
        counts = torch.zeros([len(tried) for tried in grid.values()], dtype=torch.long)
        for place, near in enumerate(affinities(self._cosines(validation), grid["beta"])):
            for row, values in enumerate(soft):
                counts[place, :, row] = right_along(base, near @ values, grid["alpha"], validation.known)
        return first_best(grid, counts, len(validation), self.start)

    def logits(self, clips: Clips) -> Tensor:
        """(N, K)."""
        own = self.tensors
        soft = own["values"] * (own["gamma"] * own["fit"]).exp()[:, None]
        return self.zero_shot(clips) + own["alpha"] * affinity(self._cosines(clips), own["beta"]) @ soft

    def _cosines(self, clips: Clips) -> Tensor:
        return unit(unit(clips.pooled)[:, self.tensors["chosen"]]) @ self.tensors["keys"].T


def criterion(sums: Tensor, counts: Tensor, weights: Tensor, similarity: float, variance: float) -> Tensor:
    """How well each channel tells classes apart: (D,).

    The mean product over all pairs of samples of different classes counts against a channel, the variance of the class
    texts for it.

    Args:
        sums: (K, D) of each class's samples: its text, and its clips if they count.
        counts: (K,) how many samples that is.
        weights: (K, D) of the class texts.
        similarity, variance: weights of the two.
    """
    pairs = counts.sum() ** 2 - counts.square().sum()
    alike = (sums.sum(0).square() - sums.square().sum(0)) / pairs
    return variance * weights.var(0) - similarity * alike


def best_channels(values: Tensor, count: int | None) -> Tensor:
    """Numbers of the highest ``count`` channels, 70 % of them when not given, best first."""
    return values.topk(min(count or round(0.7 * len(values)), len(values))).indices
