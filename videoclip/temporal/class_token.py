"""ActionCLIP's transformer with a class token (Wang et al., 2021, arXiv:2109.08472, "Transf_cls")."""

import torch
from torch import Tensor, nn

from videoclip.layers import Positions, encoder_stack
from videoclip.temporal import TemporalEncoder


class ClassToken(TemporalEncoder):
    """A learned token reads the frames in a standard transformer encoder; its output stands for every frame.

    So every similarity sees it: the mean of equal frames is that frame. As in the authors' code the blocks normalise
    after each residual and use ReLU. Differs from it by masking padded frames, of which it knows none.

    Args:
        width: D.
        layers: number of blocks.
        heads: attention heads.
        feedforward: width of the hidden layer.
        dropout: while training.
        max_positions: the longest clip before the position table is stretched.
    """

    def __init__(
        self,
        width: int,
        layers: int = 6,
        heads: int = 8,
        feedforward: int = 2048,
        dropout: float = 0.1,
        max_positions: int = 32,
    ) -> None:
        super().__init__()
        self.token = nn.Parameter(torch.zeros(width))
        self.positions = Positions(max_positions + 1, width)
        self.encoder = encoder_stack(width, layers, heads, feedforward, dropout)
        linear = [module.weight for module in self.encoder.modules() if isinstance(module, nn.Linear)]
        for weight in (self.token, self.positions.weight, *linear):
            nn.init.trunc_normal_(weight, std=0.02, a=-0.04, b=0.04)

    def encode(self, frames: Tensor, mask: Tensor) -> Tensor:
        """(B, T, D) -> (B, T, D), the same vector T times."""
        mask = torch.cat([torch.ones_like(mask[:, :1]), mask], 1)
        tokens = torch.cat([self.token.expand(len(frames), 1, -1), frames], 1) + self.positions(mask)
        read: Tensor = self.encoder(tokens, src_key_padding_mask=~mask)
        return read[:, :1].expand_as(frames)
