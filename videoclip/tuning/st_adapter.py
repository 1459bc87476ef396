"""ST-Adapter (Pan et al., NeurIPS 2022, arXiv:2206.13559)."""

from collections.abc import Sequence
from typing import Literal

from torch import Tensor, nn

from videoclip.backbone.walk import Tower
from videoclip.tuning import ResidualAdapters, empty_output


class STAdapter(ResidualAdapters):
    """Patches pass a narrow depthwise convolution over time beside the residual stream; the class token is left alone.

    Equal to the authors' code; their 12-adapter form has ``places: [mlp]``, the one with 24 both.

    Args:
        tower: the image tower.
        hidden: width of the convolution.
        kernel: over frames, rows and columns; odd numbers.
        blocks, places: see ``ResidualAdapters``.
    """

    towers = ("image",)

    def __init__(
        self,
        tower: Tower,
        hidden: int = 384,
        kernel: tuple[int, int, int] = (3, 1, 1),
        blocks: int | None = None,
        places: Sequence[Literal["attention", "mlp"]] = ("mlp",),
    ) -> None:
        self.kernel = kernel  # read by ``make``, which the base calls
        super().__init__(tower, hidden, blocks, places)

    def make(self, hidden: int) -> nn.Module:
        """Down, convolution, up."""
        return _Adapter(self.tower, hidden, self.kernel)


class _Adapter(nn.Module):
    def __init__(self, tower: Tower, width: int, kernel: tuple[int, int, int]) -> None:
        super().__init__()
        self.grid, self.end = tower.grid, 1 + tower.patches
        self.down = nn.Linear(tower.width, width)
        padding = (kernel[0] // 2, kernel[1] // 2, kernel[2] // 2)
        self.conv = nn.Conv3d(width, width, kernel, padding=padding, groups=width)
        self.up = nn.Linear(width, tower.width)
        nn.init.zeros_(self.down.bias)
        empty_output(self.conv)
        nn.init.zeros_(self.up.bias)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, N, W) -> (B, T, N, W)."""
        patches = x[:, :, 1 : self.end]
        volume = self.down(patches).unflatten(2, self.grid).permute(0, 4, 1, 2, 3)
        change = self.up(self.conv(volume).permute(0, 2, 3, 4, 1).flatten(2, 3))
        return x + nn.functional.pad(change, (0, 0, 1, x.shape[2] - self.end))
