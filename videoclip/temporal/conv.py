"""ActionCLIP's one-dimensional convolution head (Wang et al., 2021, arXiv:2109.08472, "Conv_1D")."""

import torch
from torch import Tensor, nn

from videoclip.layers import gathered, scattered
from videoclip.temporal import TemporalEncoder, front


class Conv(TemporalEncoder):
    """A depthwise convolution over three neighbouring frames, added to the frames.

    It starts as a shift: the first quarter of the channels comes from the frame before, the last from the frame after.
    Differs from the authors' code, which convolves over channels and frames mixed up, because the tensor is reshaped
    where it should be transposed; and which has no frame mask. Here neighbours are real frames only.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv1d(width, width, 3, padding=1, groups=width, bias=False)
        shift = torch.zeros(width, 1, 3)
        quarter = width // 4
        shift[:quarter, 0, 0] = shift[quarter : width - quarter, 0, 1] = shift[width - quarter :, 0, 2] = 1
        self.conv.weight = nn.Parameter(shift)

    def encode(self, frames: Tensor, mask: Tensor) -> Tensor:
        """(B, T, D) -> (B, T, D)."""
        order = front(mask)
        mixed = self.conv(gathered(frames, order).transpose(1, 2)).transpose(1, 2)
        return frames + scattered(mixed, order)
