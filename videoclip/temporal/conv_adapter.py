"""M2-CLIP's convolution over projected frames."""

from __future__ import annotations

from torch import Tensor, nn

from videoclip.layers import gathered, scattered
from videoclip.temporal import TemporalEncoder, front


class ConvAdapter(TemporalEncoder):
    """x + up(convolution over time(down x)): a residual with one weight a channel for each of three frames.

    Source: M2-CLIP (Wang et al., AAAI 2024, arXiv:2401.11649), its ``t_adapter``. Convolution and ``up`` start at zero
    as its adapters inside the tower do, so that the encoder starts as the identity; padded frames count as zeros.

    Args:
        width: D.
        reduction: of the width between.
    """

    def __init__(self, width: int, reduction: int = 2) -> None:
        super().__init__()
        between = max(1, width // reduction)
        self.down, self.up = nn.Linear(width, between), nn.Linear(between, width)
        self.conv = nn.Conv1d(between, between, 3, padding=1, groups=between)
        for tensor in (self.conv.weight, self.conv.bias, self.up.bias, self.down.bias):
            assert tensor is not None
            nn.init.zeros_(tensor)

    def encode(self, frames: Tensor, mask: Tensor) -> Tensor:
        """(B, T, D)."""
        order = front(mask)
        small = gathered(self.down(frames).masked_fill(~mask[..., None], 0), order)
        mixed: Tensor = self.up(scattered(self.conv(small.mT).mT, order))
        return frames + mixed
