"""M2-CLIP's temporal enhancement and difference adapter (Wang et al., 2024, arXiv:2401.11649)."""

import torch
from torch import Tensor, nn

from videoclip.backbone.walk import Tower
from videoclip.tuning import ResidualAdapters, empty_output


class TEDAdapter(ResidualAdapters):
    """Beside the residual stream: a convolution over time of all tokens, and one over space of patch differences.

    Equal to the authors' code, whose backward pass fails in single precision (it changes its input in place). Their
    12-adapter form has ``places: [mlp]``, the one with 24 both.
    """

    towers = ("image",)

    def make(self, hidden: int) -> nn.Module:
        """Both convolutions."""
        return _Adapter(self.tower, hidden)


class _Adapter(nn.Module):
    def __init__(self, tower: Tower, width: int) -> None:
        super().__init__()
        self.grid, self.end = tower.grid, 1 + tower.patches
        self.down, self.up = nn.Linear(tower.width, width), nn.Linear(width, tower.width)
        self.conv = nn.Conv1d(width, width, 3, padding=1, groups=width)
        self.difference = _Difference(tower.width, width, tower.grid)
        empty_output(self.conv)
        for linear in (self.down, self.up):
            nn.init.zeros_(linear.bias)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, N, W) -> (B, T, N, W)."""
        batch, _, count, _ = x.shape
        over_time = self.down(x).permute(0, 2, 3, 1).flatten(0, 1)
        change = self.up(self.conv(over_time).unflatten(0, (batch, count)).permute(0, 3, 1, 2))
        spatial = self.difference(x[:, :, 1 : self.end])
        return x + change + nn.functional.pad(spatial, (0, 0, 1, count - self.end))


class _Difference(nn.Module):
    def __init__(self, width: int, narrow: int, grid: tuple[int, int]) -> None:
        super().__init__()
        self.grid = grid
        self.down, self.up = nn.Linear(width, narrow), nn.Linear(narrow, width)
        self.conv = nn.Conv3d(narrow, narrow, (1, 3, 3), padding=(0, 1, 1), groups=narrow)
        empty_output(self.conv)
        for linear in (self.down, self.up):
            nn.init.zeros_(linear.bias)

    def forward(self, patches: Tensor) -> Tensor:
        """(B, T, N - 1, W) -> (B, T, N - 1, W)."""
        change = torch.cat([torch.zeros_like(patches[:, :1]), patches[:, 1:] - patches[:, :-1]], 1)
        volume = self.down(change).unflatten(2, self.grid).permute(0, 4, 1, 2, 3)
        mixed: Tensor = self.up(self.conv(volume).permute(0, 2, 3, 4, 1).flatten(2, 3))
        return mixed
