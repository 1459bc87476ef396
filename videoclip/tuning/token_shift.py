"""TS2-Net's token shift (Liu et al., ECCV 2022, arXiv:2207.07852)."""

import torch
from torch import Tensor

from videoclip.backbone.walk import Memory, Tower
from videoclip.errors import ConfigError
from videoclip.tuning import Tuning, first_block


class TokenShift(Tuning):
    """Before attention in the last blocks, some tokens are those of the frame before, some those of the frame after.

    No parameters: combine it (``image_tuning: [partial, token_shift, token_selection]``). Equal to the authors' code;
    of ``fold`` = N // ``division`` tokens in a row, the second comes from the frame before and the fifth from the one
    after; the class token stays.

    Args:
        tower: the image tower.
        blocks: the last so many shift.
        division: see above.
    """

    towers = ("image",)

    def __init__(self, tower: Tower, blocks: int = 2, division: int = 7) -> None:
        super().__init__(tower)
        self.first, self.division = first_block(tower, blocks), division
        if not 0 < division <= 1 + tower.patches:
            raise ConfigError("token_shift.division", [f"must lie in 1..{1 + tower.patches}, the tokens of a frame"])

    def attention_input(self, block: int, normed: Tensor, memory: Memory) -> Tensor:
        """Shift tokens (B, T, N, W)."""
        if block < self.first:
            return normed
        fold = normed.shape[2] // self.division
        before, after = normed.clone(), torch.cat([normed[:, 1:], normed[:, -1:]], 1)
        before[:, 1:, 1::fold] = normed[:, :-1, 1::fold]
        before[:, :, 4::fold] = after[:, :, 4::fold]
        return before
