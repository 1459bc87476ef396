"""Bottleneck adapters (Houlsby et al., ICML 2019, arXiv:1902.00751)."""

from torch import Tensor, nn

from videoclip.backbone.walk import Memory, Tower
from videoclip.tuning import Tuning, empty_output


class Bottleneck(Tuning):
    """What attention and MLP give passes a narrow two-layer network with a skip before it joins the residual stream.

    Starts as the tower was loaded: the last layer is zero (in the paper it is near zero).

    Args:
        tower: either one.
        hidden: width of the hidden layers.
    """

    def __init__(self, tower: Tower, hidden: int = 64) -> None:
        super().__init__(tower)
        self.attention = nn.ModuleList(narrow_network(tower.width, hidden) for _ in tower.blocks)
        self.mlp = nn.ModuleList(narrow_network(tower.width, hidden) for _ in tower.blocks)

    def attention_output(self, block: int, attended: Tensor, memory: Memory) -> Tensor:
        """Through the block's first adapter."""
        return attended + self.attention[block](attended)

    def mlp_output(self, block: int, mixed: Tensor, normed: Tensor, memory: Memory) -> Tensor:
        """Through the block's second adapter."""
        return mixed + self.mlp[block](mixed)


def narrow_network(width: int, narrow: int) -> nn.Sequential:
    """Linear, GELU, Linear; gives zero at first."""
    layers = nn.Sequential()
    layers.add_module("down", nn.Linear(width, narrow))
    layers.add_module("gelu", nn.GELU())
    layers.add_module("up", last := nn.Linear(narrow, width))
    empty_output(last)
    return layers
