"""M2-CLIP's text adapter (Wang et al., 2024, arXiv:2401.11649)."""

from collections.abc import Sequence
from typing import Literal

from torch import Tensor, nn

from videoclip.backbone.walk import Tower
from videoclip.tuning import ResidualAdapters


class TextAdapter(ResidualAdapters):
    """A narrow two-layer network beside the residual stream of the text tower.

    Equal to the authors' code: the last layer's weights start at random, so the tower does not start as it was loaded.

    Args:
        tower: the text tower.
        hidden: width of the hidden layer.
        blocks: the last so many have adapters; all when not given.
        places: in front of attention, the MLP, or both.
    """

    towers = ("text",)

    def __init__(
        self,
        tower: Tower,
        hidden: int = 384,
        blocks: int | None = None,
        places: Sequence[Literal["attention", "mlp"]] = ("mlp",),
    ) -> None:
        super().__init__(tower, lambda: _Adapter(tower.width, hidden), blocks, places)


class _Adapter(nn.Module):
    def __init__(self, width: int, narrow: int) -> None:
        super().__init__()
        self.down, self.up = nn.Linear(width, narrow), nn.Linear(narrow, width)
        self.gelu = nn.GELU()
        for linear in (self.down, self.up):
            nn.init.zeros_(linear.bias)

    def forward(self, x: Tensor) -> Tensor:
        """(Q, L, W) -> (Q, L, W)."""
        return x + self.up(self.gelu(self.down(x)))
