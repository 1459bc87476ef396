"""M2-CLIP's text adapter (Wang et al., 2024, arXiv:2401.11649)."""

from torch import Tensor, nn

from videoclip.tuning import ResidualAdapters


class TextAdapter(ResidualAdapters):
    """A narrow two-layer network beside the residual stream of the text tower.

    Equal to the authors' code: the last layer's weights start at random, so the tower does not start as it was loaded.
    """

    towers = ("text",)

    def make(self, hidden: int) -> nn.Module:
        """Linear, GELU, Linear."""
        return _Adapter(self.tower.width, hidden)


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
