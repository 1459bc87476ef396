"""CLIP4Clip's three-dimensional patch embedding (Luo et al., 2021, arXiv:2104.08860, "3D linear")."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from videoclip.backbone.walk import Tower
from videoclip.tuning import Tuning


class Patch3d(Tuning):
    """Patches are embedded from three frames in a row; the middle one starts with CLIP's weights, the others with zero.

    Equal to the authors' code. The rest of the tower is trained as they do by ``image_tuning: [full, patch3d]``.

    Args:
        tower: the image tower.
    """

    towers = ("image",)

    def __init__(self, tower: Tower) -> None:
        super().__init__(tower)
        plain = tower.module.conv1
        self.stride = plain.stride
        self.weight = nn.Parameter(torch.zeros(tower.width, 3, 3, *plain.kernel_size))  # to, channels, frames, ...
        with torch.no_grad():
            self.weight[:, :, 1] = plain.weight

    def patches(self, pixels: Tensor) -> Tensor:
        """(B, T, 3, S, S) -> (B, T, N - 1, W).

        One convolution over pictures gives what each frame adds to the next, to itself and to the one before: torch's
        own over volumes has gradients that are not numbers in bfloat16 on some processors.
        """
        slices = self.weight.permute(2, 0, 1, 3, 4).flatten(0, 1)
        parts = F.conv2d(pixels.flatten(0, 1), slices, stride=self.stride).flatten(2).mT
        to_next, own, to_last = parts.unflatten(0, pixels.shape[:2]).chunk(3, -1)
        before = F.pad(to_next[:, :-1], (0, 0, 0, 0, 1, 0))
        return own + before + F.pad(to_last[:, 1:], (0, 0, 0, 0, 0, 1))
