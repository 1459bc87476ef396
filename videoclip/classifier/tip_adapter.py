"""Tip-Adapter: a cache of labelled clips beside the class texts."""

from __future__ import annotations

from torch import Tensor

from videoclip.classifier import Classifier, Clips, Lesson, one_hot
from videoclip.classifier.parts.cache import affinity, keys_of, search_cache
from videoclip.classifier.parts.search import Found, steps
from videoclip.layers import unit


class TipAdapter(Classifier):
    """Zero-shot logits + alpha x exp(-beta (1 - cosine with each labelled clip)) x its class.

    Source: Zhang et al., ECCV 2022, arXiv:2207.09519. Keys are the mean of a clip's augmented passes.

    Args:
        beta, alpha: where nothing can be searched, for lack of validation clips.
        beta_max, alpha_max, beta_steps, alpha_steps: the grid: so many values from 0.1 on, the end left out; UCF101's.
    """

    def __init__(
        self,
        beta: float = 1.0,
        alpha: float = 3.0,
        beta_max: float = 7.0,
        alpha_max: float = 3.0,
        beta_steps: int = 200,
        alpha_steps: int = 20,
    ) -> None:
        super().__init__()
        self.start = {"beta": beta, "alpha": alpha}
        self.grid = {"beta": steps(0.1, beta_max, beta_steps), "alpha": steps(0.1, alpha_max, alpha_steps)}

    def fit(self, lesson: Lesson) -> None:
        """Keep the clips, then search beta and alpha."""
        shots = lesson.shots
        values = one_hot(shots.known, len(lesson.texts))
        self.keep(scale=lesson.scale, weights=lesson.texts.weights, keys=keys_of(shots.passes), values=values)
        self.choose(self.search(lesson.validation))

    def search(self, validation: Clips | None) -> Found:
        """The first best beta and alpha on validation clips; beta turns slowest."""
        if validation is None:
            return Found(self.start)
        base, labels = self.zero_shot(validation), validation.known
        cosines = unit(validation.pooled) @ self.tensors["keys"].T
        return search_cache(base, cosines, self.tensors["values"], self.grid, labels, self.start)

    def score(self, pooled: Tensor, keys: Tensor, weights: Tensor, values: Tensor) -> Tensor:
        """Logits (N, K) of pooled clips (N, D) at the start values, as they are trained."""
        rows = unit(pooled)
        near = affinity(rows @ keys.T, self.start["beta"])
        return self.tensors["scale"] * rows @ weights.T + self.start["alpha"] * near @ values

    def logits(self, clips: Clips) -> Tensor:
        """(N, K)."""
        own = self.tensors
        near = affinity(unit(clips.pooled) @ own["keys"].T, own["beta"])
        return self.zero_shot(clips) + own["alpha"] * near @ own["values"]
