"""EVL's decoder (Lin et al., ECCV 2022, arXiv:2208.03550)."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from videoclip.backbone.walk import Memory, Tower
from videoclip.layers import Positions, QuickGELU
from videoclip.tuning import Tuning, at_frames, empty_output, first_block


class Evl(Tuning):
    """One token a clip reads all tokens of the frozen tower's last blocks, to which motion was added, block by block.

    The decoder equals the authors' code but for its token, which they start at zero by a slip and which starts from
    N(0, 0.02) here. They classify what it gives; here a LayerNorm and a linear layer, zero at first, bring it into the
    joint space, where it is added to every frame.

    Args:
        tower: the image tower.
        layers: of the decoder; it reads as many last blocks.
        heads: of the decoder's attention; the tower's when not given.
        mlp_ratio: width of the decoder's MLPs in terms of W.
        frames: rows of the tables of frame positions, zero at first and stretched over longer clips.
        dropout: in the MLPs and before the last layer, in training.
    """

    towers = ("image",)

    def __init__(
        self,
        tower: Tower,
        layers: int = 4,
        heads: int | None = None,
        mlp_ratio: float = 4.0,
        frames: int = 8,
        dropout: float = 0.5,
    ) -> None:
        super().__init__(tower)
        self.first = first_block(tower, layers)
        width = tower.width
        self.token = nn.Parameter(0.02 * torch.randn(width))
        self.conv = nn.ModuleList(nn.Conv1d(width, width, 3, padding=1, groups=width) for _ in range(layers))
        self.positions = nn.ModuleList(Positions(frames, width) for _ in range(layers))
        for table in self.positions:
            nn.init.zeros_(table.weight)  # type: ignore[arg-type]
        self.motion = nn.ModuleList(_Motion(width, tower.grid) for _ in range(layers))
        self.layers = nn.ModuleList(
            _Layer(width, heads or tower.heads, int(mlp_ratio * width), dropout) for _ in range(layers)
        )
        self.norm, self.dropout = nn.LayerNorm(width), nn.Dropout(dropout)
        self.read = nn.Linear(width, tower.joint_width)
        empty_output(self.read)

    def attention_input(self, block: int, normed: Tensor, memory: Memory) -> Tensor:
        """Compare the patches of neighbouring frames as the block's attention would."""
        if block >= self.first:
            attention: Any = self.tower.blocks[block].attn
            query, key = (
                F.linear(normed, weight, bias).unflatten(-1, (self.tower.heads, -1))[:, :, 1:]
                for weight, bias in list(
                    zip(attention.in_proj_weight.chunk(3), attention.in_proj_bias.chunk(3), strict=True)
                )[:2]
            )
            memory[self.motion] = self.motion[block - self.first](query, key)
        return normed

    def after_block(self, block: int, x: Tensor, memory: Memory) -> Tensor:
        """Run the decoder's layer on the block's output."""
        layer = block - self.first
        if layer < 0:
            return x
        over_time = self.conv[layer](x.permute(0, 2, 3, 1).flatten(0, 1)).unflatten(0, (len(x), -1))
        seen = x + over_time.permute(0, 3, 1, 2) + at_frames(self.positions[layer], x)
        seen = seen + F.pad(memory[self.motion], (0, 0, 1, x.shape[2] - 1 - memory[self.motion].shape[2]))
        token = memory[self] if layer else self.token.expand(len(x), 1, -1)
        memory[self] = self.layers[layer](token, seen.flatten(1, 2))
        return x

    def finish(self, frames: Tensor, x: Tensor, memory: Memory) -> Tensor:
        """Add what the token has read to every frame."""
        added: Tensor = self.read(self.dropout(self.norm(memory[self])))
        return frames + added


class _Motion(nn.Module):
    """Attention of each patch over the patches of the frame before, and after, as a sum of learned offset vectors."""

    def __init__(self, width: int, grid: Sequence[int]) -> None:
        super().__init__()
        rows, columns = grid
        self.before = nn.Parameter(torch.zeros((2 * rows - 1) * (2 * columns - 1), width))
        self.after = nn.Parameter(torch.zeros_like(self.before))
        self.offset: Tensor
        row, column = (part.flatten() for part in torch.meshgrid(*map(torch.arange, grid), indexing="ij"))
        offset = (row[:, None] - row + rows - 1) * (2 * columns - 1) + column[:, None] - column + columns - 1
        self.register_buffer("offset", offset, persistent=False)

    def forward(self, query: Tensor, key: Tensor) -> Tensor:
        """Queries and keys (B, T, P, heads, d) of all frames' patches -> (B, T, P, W)."""
        query = query * query.shape[-1] ** -0.5
        back = self._read(query[:, 1:], key[:, :-1], self.before)
        ahead = self._read(query[:, :-1], key[:, 1:], self.after)
        return F.pad(back, (0, 0, 0, 0, 1, 0)) + F.pad(ahead, (0, 0, 0, 0, 0, 1))

    def _read(self, query: Tensor, key: Tensor, table: Tensor) -> Tensor:
        weights = torch.einsum("btqhd,btkhd->btqkh", query, key).softmax(-2).mean(-1)
        return torch.einsum("btqk,qkw->btqw", weights, table[self.offset].to(weights.dtype))


class _Layer(nn.Module):
    def __init__(self, width: int, heads: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.norm_token, self.norm_seen, self.norm_mlp = (nn.LayerNorm(width) for _ in range(3))
        self.attention = nn.MultiheadAttention(width, heads, batch_first=True)
        self.mlp = nn.Sequential()
        self.mlp.add_module("c_fc", nn.Linear(width, hidden))
        self.mlp.add_module("gelu", QuickGELU())
        self.mlp.add_module("dropout", nn.Dropout(dropout))
        self.mlp.add_module("c_proj", nn.Linear(hidden, width))

    def forward(self, token: Tensor, seen: Tensor) -> Tensor:
        """Token (B, 1, W) reads tokens (B, T N, W) -> (B, 1, W)."""
        seen = self.norm_seen(seen)
        token = token + self.attention(self.norm_token(token), seen, seen, need_weights=False)[0]
        mixed: Tensor = token + self.mlp(self.norm_mlp(token))
        return mixed
