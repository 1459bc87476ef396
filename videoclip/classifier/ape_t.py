"""APE-T: APE with a trained residual."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from videoclip.classifier import Lesson, one_hot, right
from videoclip.classifier.ape import best_channels, criterion
from videoclip.classifier.parts.cache import keys_of
from videoclip.classifier.parts.learning import Schedule, leaf, learn
from videoclip.classifier.tip_adapter import TipAdapter


class ApeT(TipAdapter):
    """A residual for each class on chosen channels of its text and its keys, and a weight for each labelled clip.

    Source: Zhu et al., ICCV 2023, arXiv:2304.01195, the trained form. Channels are chosen by the class texts alone.

    Args:
        channels: how many the residual touches; 80 % of them when not given (the paper's UCF101: 800 of 1024).
        similarity_weight, variance_weight: of the criterion.
        lr, eps, epochs, batch: of AdamW with decay 0.1, falling as a cosine; UCF101's.
        beta, alpha: during training, and where nothing can be searched.
        beta_max, alpha_max, beta_steps, alpha_steps: the grid, its ends left out.
    """

    def __init__(
        self,
        channels: int | None = None,
        similarity_weight: float = 0.2,
        variance_weight: float = 0.8,
        lr: float = 1e-3,
        eps: float = 2e-3,
        epochs: int = 30,
        batch: int = 256,
        beta: float = 1.0,
        alpha: float = 2.0,
        beta_max: float = 10.0,
        alpha_max: float = 7.0,
        beta_steps: int = 200,
        alpha_steps: int = 20,
    ) -> None:
        super().__init__(beta, alpha, beta_max, alpha_max, beta_steps, alpha_steps)
        self.channels, self._weights = channels, (similarity_weight, variance_weight)
        self.schedule = Schedule(lr, epochs, batch, eps=eps, weight_decay=0.1)

    def fit(self, lesson: Lesson) -> None:
        """Train residual and weights, keep the best epoch's, search beta and alpha."""
        shots, validation = lesson.shots, lesson.validation
        self.prepare(keys_of(shots.passes), shots.known, lesson.texts.weights, lesson.scale)
        residual = leaf(torch.zeros(len(lesson.texts), len(self.tensors["chosen"])))
        clip_weights = leaf(torch.ones(len(shots), 1))

        def backward(index: Tensor) -> None:
            moved = self.moved(residual, clip_weights)
            F.cross_entropy(self.score(shots.drawn(index), *moved), shots.known[index]).backward()

        def score() -> float:
            assert validation is not None
            with torch.no_grad():
                return right(self.score(validation.pooled, *self.moved(residual, clip_weights)), validation.known)

        parameters = [residual, clip_weights]
        learn(parameters, backward, len(shots), self.schedule, lesson.seed, score=score if validation else None)
        keys, weights, values = (part.detach() for part in self.moved(residual, clip_weights))
        self.keep(keys=keys, weights=weights, values=values)
        self.choose(self.search(validation))

    def prepare(self, keys: Tensor, labels: Tensor, weights: Tensor, scale: float) -> None:
        """Keep keys (M, D) of clips, their labels (M,) and class texts (K, D), and choose the channels."""
        chosen = best_channels(
            criterion(weights, torch.ones(len(weights)), weights, *self._weights),
            self.channels or round(0.8 * weights.shape[1]),
        )
        self.keep(scale=scale, weights=weights, keys=keys, labels=labels, chosen=chosen)
        self.keep(values=one_hot(labels, len(weights)))

    def moved(self, residual: Tensor, clip_weights: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Keys (M, D), class texts (K, D) and values (M, K), with a residual (K, chosen) and clip weights (M, 1)."""
        own = self.tensors
        wide = torch.zeros_like(own["weights"]).index_copy(1, own["chosen"], residual)
        return own["keys"] + wide[own["labels"]], own["weights"] + wide, own["values"] * clip_weights
