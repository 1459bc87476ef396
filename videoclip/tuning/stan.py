"""STAN's side branch (Liu et al., CVPR 2023, arXiv:2301.11116)."""

import copy
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torchvision.ops import stochastic_depth

from videoclip.backbone.walk import Memory, Tower, attend
from videoclip.errors import ConfigError
from videoclip.layers import Positions
from videoclip.tuning import Tuning, at_frames, empty_output


class Stan(Tuning):
    """A branch beside the last blocks reads their outputs; its layers attend over time, then over a frame's patches.

    Equal to the authors' code with attention over time. The convolution is described in the paper alone: down to an
    eighth of the width, kernel 3 over time, GELU, up; that its last layer starts at zero is chosen here, as for
    attention. Layers over patches start as copies of the tower's. The branch starts with random time positions from
    N(0, 1), as there. Their towers are fully trained as well: ``image_tuning: [full, stan]``.

    Args:
        tower: the image tower.
        depth: layers of the branch; it reads the outputs of as many last blocks.
        time: what layers do over time.
        frames: rows of the time table, stretched over longer clips.
        drop_path: probability that a clip skips the last layer, in training; it rises evenly from 0 at the first.
    """

    towers = ("image",)

    def __init__(
        self,
        tower: Tower,
        depth: int = 4,
        time: Literal["attention", "convolution"] = "attention",
        frames: int = 64,
        drop_path: float = 0.1,
    ) -> None:
        super().__init__(tower)
        if not 1 <= depth <= len(tower.blocks):
            raise ConfigError("stan.depth", [f"must lie in 1..{len(tower.blocks)}, the tower's blocks, got {depth}"])
        self.first = len(tower.blocks) - depth
        self.positions = Positions(frames, tower.width)
        make = _TimeAttention if time == "attention" else _TimeConvolution
        rates = [drop_path * layer / max(1, depth - 1) for layer in range(depth)]
        self.time = nn.ModuleList(make(tower, rate) for rate in rates)
        self.space = nn.ModuleList(copy.deepcopy(block) for block in tower.blocks[self.first :])
        self.space.requires_grad_(True)
        self.rates = rates

    def after_block(self, block: int, x: Tensor, memory: Memory) -> Tensor:
        """Read the block's output into the branch (B, 1 + T P, W), and run its layer."""
        layer = block - self.first
        if layer < 0:
            return x
        token, patches = x[:, :, 0].mean(1, keepdim=True), x[:, :, 1:]
        if layer == 0:
            visual = self.tower.module
            token = (token + visual.class_embedding + visual.positional_embedding[0]) / 2
            patches = patches + visual.positional_embedding[1:] + at_frames(self.positions, x)
        else:
            before = memory[self]
            token, patches = token + before[:, :1], patches + before[:, 1:].unflatten(1, patches.shape[1:3])
        memory[self] = self._layer(layer, token, self.time[layer](patches))
        return x

    def leave(self, x: Tensor, memory: Memory) -> Tensor:
        """Add the branch's class token to each frame's."""
        return torch.cat([x[:, :, :1] + memory[self][:, None, :1], x[:, :, 1:]], 2)

    def _layer(self, layer: int, token: Tensor, patches: Tensor) -> Tensor:
        """Attention over each frame's patches and a copy of the class token, whose results are averaged; the MLP."""
        block: Any = self.space[layer]
        frames = patches.shape[1]
        each = torch.cat([token[:, None].expand(-1, frames, -1, -1), patches], 2)
        mixed = block.ls_1(attend(block, block.ln_1(each)))
        change = torch.cat([mixed[:, :, 0].mean(1, keepdim=True), mixed[:, :, 1:].flatten(1, 2)], 1)
        branch = torch.cat([token, patches.flatten(1, 2)], 1)
        branch = branch + stochastic_depth(change, self.rates[layer], "row", self.training)
        after: Tensor = branch + block.ls_2(block.mlp(block.ln_2(branch)))
        return after


class _TimeAttention(nn.Module):
    def __init__(self, tower: Tower, drop: float) -> None:
        super().__init__()
        self.drop = drop
        self.norm = nn.LayerNorm(tower.width)
        self.attention = nn.MultiheadAttention(tower.width, tower.heads, batch_first=True)
        self.out = nn.Linear(tower.width, tower.width)
        empty_output(self.out)

    def forward(self, patches: Tensor) -> Tensor:
        """Patches (B, T, P, W), each over time -> (B, T, P, W)."""
        batch = len(patches)
        normed = self.norm(patches).transpose(1, 2).flatten(0, 1)
        mixed = self.attention(normed, normed, normed, need_weights=False)[0]
        mixed = stochastic_depth(mixed.unflatten(0, (batch, -1)).transpose(1, 2), self.drop, "row", self.training)
        return patches + self.out(mixed)


class _TimeConvolution(nn.Module):
    def __init__(self, tower: Tower, drop: float) -> None:
        super().__init__()
        self.drop = drop
        narrow = max(1, tower.width // 8)
        self.grid = tower.grid
        self.down, self.up = nn.Linear(tower.width, narrow), nn.Linear(narrow, tower.width)
        self.conv = nn.Conv3d(narrow, narrow, (3, 1, 1), padding=(1, 0, 0))
        self.gelu = nn.GELU()
        empty_output(self.up)

    def forward(self, patches: Tensor) -> Tensor:
        """Patches (B, T, P, W) -> (B, T, P, W)."""
        volume = self.down(patches).unflatten(2, self.grid).permute(0, 4, 1, 2, 3)
        mixed = self.up(self.gelu(self.conv(volume)).permute(0, 2, 3, 4, 1).flatten(2, 3))
        kept: Tensor = patches + stochastic_depth(mixed, self.drop, "row", self.training)
        return kept
