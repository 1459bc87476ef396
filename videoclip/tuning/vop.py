"""VoP's video prompts (Huang et al., CVPR 2023, arXiv:2211.12764)."""

from typing import Literal

import torch
from torch import Tensor, nn

from videoclip.backbone.walk import Memory, Tower
from videoclip.errors import ConfigError
from videoclip.layers import Positions, recur
from videoclip.tuning import Tuning, at_frames


class Vop(Tuning):
    """Prompts in every block between class token and patches; what becomes of them in a block is dropped.

    The basic form equals the authors' code. The others are known from the paper alone: half of a block's prompts are
    made for each frame, from its position (P) or from the class tokens of all frames, read by a recurrent network (C);
    and from some block on all frames are attended to together (F). Unknown there and chosen here: the recurrent network
    has W channels each way, with which the paper's 14.3 M parameters of C come out; prompts of joint blocks are the
    shared ones, once a clip; clips of other lengths than the tables' read them at evenly spaced rows.

    Args:
        tower: the image tower.
        tokens: prompts a block.
        special: what half of them depend on, where blocks act on single frames.
        joint_from: number of the first block that attends over all frames; none when not given. The paper's 12-layer
            towers have 8.
        frames: rows of the tables over positions.
    """

    towers = ("image",)

    def __init__(
        self,
        tower: Tower,
        tokens: int = 8,
        special: Literal["none", "position", "context"] = "none",
        joint_from: int | None = None,
        frames: int = 12,
    ) -> None:
        super().__init__(tower)
        layers, width = len(tower.blocks), tower.width
        self.joint_from = layers if joint_from is None else joint_from
        if not 1 <= self.joint_from <= layers or (special != "none" and tokens % 2):
            raise ConfigError(
                "vop", [f"joint_from must lie in 1..{layers}, tokens be even where special ones are made"]
            )
        self.special, self.count = special, tokens // 2 if special != "none" else 0
        self.shared = nn.Parameter(0.02 * torch.randn(layers, tokens - self.count, width))
        if special == "position":
            self.by_position = nn.Parameter(0.02 * torch.randn(self.joint_from, frames, self.count, width))
        if special == "context":
            self.context = nn.LSTM(width, width, batch_first=True, bidirectional=True)
            self.split = nn.Linear(2 * width, self.count * width)
        if joint_from is not None:
            self.positions = Positions(frames, width)
            nn.init.normal_(self.positions.weight, std=0.02)

    def enter(self, x: Tensor, memory: Memory) -> Tensor:
        """The first block's prompts pass the first LayerNorm with the other tokens."""
        return self._prompted(0, x)

    def before_attention(self, block: int, x: Tensor, memory: Memory) -> Tensor:
        """Exchange the prompts; from the first joint block on, all frames' tokens are one sequence (B, 1, T N, W)."""
        if block == 0:
            return x
        x = self._plain(block - 1, x)
        if block == self.joint_from:
            memory[self] = torch.empty(x.shape[1], 0)
            x = (x + at_frames(self.positions, x)).flatten(1, 2)[:, None]
        return self._prompted(block, x)

    def leave(self, x: Tensor, memory: Memory) -> Tensor:
        """Without prompts, and frame by frame again."""
        x = self._plain(len(self.shared) - 1, x)
        return x[:, 0].unflatten(1, (len(memory[self]), -1)) if self in memory else x

    def _prompted(self, block: int, x: Tensor) -> Tensor:
        """Tokens (B, T, N, W) -> (B, T, N + prompts, W)."""
        token, rest = x[:, :, :1], x[:, :, 1:]
        parts = [token, self.shared[block].to(x.dtype).expand(*x.shape[:2], -1, -1)]
        if self.count and block < self.joint_from:
            parts.append(self._special(block, token[:, :, 0]).to(x.dtype))
        return torch.cat([*parts, rest], 2)

    def _plain(self, block: int, x: Tensor) -> Tensor:
        """The inverse of ``_prompted``."""
        prompts = self.shared.shape[1] + (self.count if block < self.joint_from else 0)
        return torch.cat([x[:, :, :1], x[:, :, 1 + prompts :]], 2)

    def _special(self, block: int, tokens: Tensor) -> Tensor:
        """Prompts (B, T, P, W) from the frames' class tokens (B, T, W) or their places."""
        if self.special == "context":
            made: Tensor = self.split(recur(self.context, tokens))
            return made.unflatten(-1, (self.count, -1))
        table, length = self.by_position[block], tokens.shape[1]
        rows = (
            torch.arange(length) if length <= len(table) else torch.linspace(0, len(table) - 1, length).round().long()
        )
        return table[rows.to(tokens.device)].expand(len(tokens), -1, -1, -1)
