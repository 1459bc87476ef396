"""ProGrad: CoOp that does not move against what the fixed texts say."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from videoclip.classifier.coop import Coop
from videoclip.classifier.parts.learning import leaf
from videoclip.classifier.parts.prompts import PromptTower


class Prograd(Coop):
    """CoOp whose gradient loses its part against the gradient of staying near the zero-shot predictions.

    Source: Zhu et al., ICCV 2023, arXiv:2205.14865. Vectors are zeros, the last ones a template's words.

    Args:
        context: how many vectors.
        words: that the last ones start from.
        strength: of what is taken away, 1 for all of it.
        temperature: of the distance between both predictions.
        lr, epochs, batch: of SGD.
    """

    def __init__(
        self,
        context: int = 16,
        words: str = "a photo of a",
        strength: float = 1.0,
        temperature: float = 1.0,
        lr: float = 2e-3,
        epochs: int | None = None,
        batch: int = 32,
    ) -> None:
        super().__init__(context, words, lr=lr, epochs=epochs, batch=batch)
        self.strength, self.temperature = strength, temperature

    def initial(self, tower: PromptTower, classes: int) -> dict[str, Tensor]:
        """(M, W)."""
        known = tower.words(str(self.words))[-self.context :]
        zeros = torch.zeros(self.context - len(known), tower.width)
        return {"vectors": leaf(torch.cat([zeros, known]))}

    def backward(self, parameters: dict[str, Tensor], logits: Tensor, labels: Tensor, zero_shot: Tensor) -> None:
        """See ``projected``."""
        tensors = list(parameters.values())
        taught, t = (zero_shot / self.temperature).softmax(1), self.temperature
        distance = -(taught * (logits / t).log_softmax(1)).sum(1).mean() * t**2
        own = torch.autograd.grad(F.cross_entropy(logits, labels), tensors, retain_graph=True)
        general = torch.autograd.grad(distance, tensors)
        for tensor, gradient, direction in zip(tensors, own, general, strict=True):
            tensor.grad = projected(gradient, direction, self.strength)


def projected(gradient: Tensor, direction: Tensor, strength: float = 1.0) -> Tensor:
    """A gradient without ``strength`` times its part along a direction, if that part points the other way."""
    along = direction / direction.norm().clamp(min=1e-12)
    part = (gradient * along).sum()
    return gradient - strength * part * along if part < 0 else gradient
