"""CLIP4Clip's three-dimensional patch embedding (Luo et al., 2021, arXiv:2104.08860, "3D linear")."""

import torch
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
        self.conv = nn.Conv3d(
            3, tower.width, (3, *plain.kernel_size), stride=(1, *plain.stride), padding=(1, 0, 0), bias=False
        )
        nn.init.zeros_(self.conv.weight)
        with torch.no_grad():
            self.conv.weight[:, :, 1] = plain.weight

    def patches(self, pixels: Tensor) -> Tensor:
        """(B, T, 3, S, S) -> (B, T, N - 1, W)."""
        embedded: Tensor = self.conv(pixels.transpose(1, 2))
        return embedded.permute(0, 2, 3, 4, 1).flatten(2, 3)
