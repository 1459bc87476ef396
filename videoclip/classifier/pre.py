"""PRE: CoOp whose vectors pass a recurrent network."""

from __future__ import annotations

from torch import Tensor, nn

from videoclip.classifier.coop import Coop
from videoclip.classifier.parts.learning import leaf
from videoclip.classifier.parts.prompts import PromptTower
from videoclip.layers import recur


class Pre(Coop):
    """CoOp with V + BiLSTM(V) in place of the vectors V, which start from words.

    Source: Pham Minh Anh et al., PRE, 2023, arXiv:2309.07760, the shared LSTM of its configuration, which has 50
    epochs; here they go by the number of shots, as in CoOp.

    Args:
        words: first values of the vectors.
        lr, epochs, batch: of SGD.
    """

    def __init__(
        self, words: str = "a photo of a", lr: float = 2e-3, epochs: int | None = None, batch: int = 32
    ) -> None:
        super().__init__(words=words, lr=lr, epochs=epochs, batch=batch)

    def initial(self, tower: PromptTower, classes: int) -> dict[str, Tensor]:
        """See ``Coop``; and the network's weights."""
        self._network = nn.LSTM(tower.width, tower.width // 2, batch_first=True, bidirectional=True)
        own = {f"network.{name}": leaf(tensor) for name, tensor in self._network.named_parameters()}
        return {**super().initial(tower, classes), **own}

    def vectors(self, parameters: dict[str, Tensor]) -> Tensor:
        """(M, W)."""
        own = {n.removeprefix("network."): t for n, t in parameters.items() if n != "vectors"}
        plain = parameters["vectors"]
        return recur(self._network, plain[None], own)[0] + plain
