"""ECO: several CoOp contexts whose class texts are averaged."""

from __future__ import annotations

import torch
from torch import Tensor

from videoclip.classifier.coop import Coop, average
from videoclip.classifier.parts.learning import leaf
from videoclip.classifier.parts.prompts import Layout, PromptTower
from videoclip.layers import unit


class Eco(Coop):
    """CoOp with independent short contexts; a class's text is the mean of theirs. One context is CoOp itself.

    Source: Agnolucci et al., ECO, ICCVW 2023, arXiv:2305.04829. No code was found: their numbers of contexts and of
    vectors are not known.

    Args:
        contexts: how many.
        context: vectors in each.
        lr, epochs, batch: of SGD.
    """

    def __init__(
        self, contexts: int = 4, context: int = 4, lr: float = 2e-3, epochs: int | None = None, batch: int = 32
    ) -> None:
        super().__init__(context, lr=lr, epochs=epochs, batch=batch)
        self.contexts = contexts

    def initial(self, tower: PromptTower, classes: int) -> dict[str, Tensor]:
        """``vectors`` are (contexts, M, W)."""
        return {"vectors": leaf(0.02 * torch.randn(self.contexts, self.context, tower.width))}

    def weights(self, tower: PromptTower, layout: Layout, vectors: Tensor) -> Tensor:
        """See ``Coop``."""
        prompts = torch.cat([layout.filled(part, self.position) for part in vectors])
        found = unit(tower.encode(prompts, layout.tokens.repeat(len(vectors), 1)))
        return average(found.chunk(len(vectors)))
