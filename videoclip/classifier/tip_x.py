"""TIP-X: Tip-Adapter with a second affinity, between distributions over classes."""

from __future__ import annotations

import torch
from torch import Tensor

from videoclip.classifier import Classifier, Clips, Lesson, one_hot
from videoclip.classifier.parts.cache import affinities, affinity, divergence, keys_of
from videoclip.classifier.parts.search import Found, first_best, right_along, steps
from videoclip.layers import unit


class TipX(Classifier):
    """Tip-Adapter + gamma x how alike the class distributions of a clip and of each labelled clip are.

    Source: SuS-X (Udandarao et al., ICCV 2023, arXiv:2211.16198). Divergences are brought to the range of the cosines;
    the authors take both ranges from whatever queries come together, leave incomplete blocks of queries at zero and
    keep the validation clips' range for the test. Here both ranges are those between different labelled clips, so that
    a clip's answer does not depend on its neighbours.

    Args:
        alpha, beta, gamma: where nothing can be searched; these are this package's.
        alpha_max, beta_max, gamma_max, alpha_steps, beta_steps, gamma_steps: the grid, its ends left out.
        temperature: of the distributions.
    """

    def __init__(
        self,
        alpha: float = 1.0,
        beta: float = 5.5,
        gamma: float = 0.1,
        alpha_max: float = 50.0,
        beta_max: float = 50.0,
        gamma_max: float = 30.0,
        alpha_steps: int = 20,
        beta_steps: int = 200,
        gamma_steps: int = 50,
        temperature: float = 0.5,
    ) -> None:
        super().__init__()
        self.start = {"alpha": alpha, "beta": beta, "gamma": gamma}
        self.grid = {
            "alpha": steps(0.1, alpha_max, alpha_steps),
            "beta": steps(1.0, beta_max, beta_steps),
            "gamma": steps(0.1, gamma_max, gamma_steps),
        }
        self.temperature = temperature

    def fit(self, lesson: Lesson) -> None:
        """Keep the clips and the ranges, then search."""
        shots, weights = lesson.shots, lesson.texts.weights
        keys = keys_of(shots.passes)
        self.keep(scale=lesson.scale, weights=weights, keys=keys, values=one_hot(shots.known, len(weights)))
        self.keep(distributions=self._distributions(keys))
        other = ~torch.eye(len(keys), dtype=torch.bool)
        cosines, divergences = (keys @ keys.T)[other], self._divergences(keys)[other]
        lowest, span = divergences.min(), (divergences.max() - divergences.min()).clamp(min=1e-12)
        stretch = (cosines.max() - cosines.min()) / span
        self.keep(stretch=stretch, shift=cosines.min() - stretch * lowest)
        self.choose(self._search(lesson.validation))

    def _search(self, validation: Clips | None) -> Found:
        if validation is None:
            return Found(self.start)
        base, alike = self.zero_shot(validation), self._alike(validation) @ self.tensors["values"]
        cosines = unit(validation.pooled) @ self.tensors["keys"].T
        counts = torch.zeros([len(tried) for tried in self.grid.values()], dtype=torch.long)
        for place, near in enumerate(affinities(cosines, self.grid["beta"])):
            kept = near @ self.tensors["values"]
            for row, gamma in enumerate(self.grid["gamma"]):
                found = right_along(base + gamma * alike, kept, self.grid["alpha"], validation.known)
                counts[:, place, row] = found
        return first_best(self.grid, counts, len(validation), self.start)

    def logits(self, clips: Clips) -> Tensor:
        """(N, K)."""
        own = self.tensors
        near = affinity(unit(clips.pooled) @ own["keys"].T, own["beta"]) @ own["values"]
        alike = self._alike(clips) @ own["values"]
        return self.zero_shot(clips) + own["gamma"] * alike + own["alpha"] * near

    def _alike(self, clips: Clips) -> Tensor:
        """(N, M), higher where the distributions are alike."""
        return -(self.tensors["stretch"] * self._divergences(unit(clips.pooled)) + self.tensors["shift"])

    def _divergences(self, rows: Tensor) -> Tensor:
        return divergence(self._distributions(rows), self.tensors["distributions"])

    def _distributions(self, rows: Tensor) -> Tensor:
        return (rows @ self.tensors["weights"].T / self.temperature).softmax(1)
