"""Messages between frames, of Microsoft's X-CLIP (Ni et al., ECCV 2022, arXiv:2208.02816)."""

import torch
from torch import Tensor, nn

from videoclip.backbone.walk import Memory, Tower
from videoclip.tuning import Tuning


class CrossFrame(Tuning):
    """In every block each frame's class token makes a message, the messages attend to each other, patches read them.

    Equal to the authors' code. Their towers are fully trained as well: ``image_tuning: [full, cross_frame]``. The
    patches that their text prompts read (similarity ``video_prompts``) leave as further tokens of the clip.

    Args:
        tower: the image tower.
        tokens: hand on the patches (B, N - 1, D), averaged over the frames, by a LayerNorm and a projection.
    """

    towers = ("image",)

    def __init__(self, tower: Tower, tokens: bool = True) -> None:
        super().__init__(tower)
        width = tower.width
        self.messages = nn.ModuleList(_Message(width, tower.heads) for _ in tower.blocks)
        self.norm = nn.LayerNorm(width) if tokens else None
        self.projection = nn.Parameter(torch.randn(width, tower.joint_width)) if tokens else None

    def before_attention(self, block: int, x: Tensor, memory: Memory) -> Tensor:
        """Append the frames' messages."""
        return torch.cat([x, self.messages[block](x[:, :, 0])[:, :, None]], 2)

    def before_mlp(self, block: int, x: Tensor, memory: Memory) -> Tensor:
        """Drop them again."""
        return x[:, :, :-1]

    def finish(self, frames: Tensor, x: Tensor, memory: Memory) -> Tensor:
        """Leave the patches in memory."""
        if self.norm is not None and self.projection is not None:
            memory["video_tokens"] = (self.norm(x[:, :, 1:]) @ self.projection).mean(1)
        return frames


class _Message(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.make = nn.Linear(width, width)
        self.norm = nn.LayerNorm(width)
        self.attention = nn.MultiheadAttention(width, heads, batch_first=True)

    def forward(self, tokens: Tensor) -> Tensor:
        """Class tokens (B, T, W) -> messages (B, T, W)."""
        message = self.make(tokens)
        normed = self.norm(message)
        return message + self.attention(normed, normed, normed, need_weights=False)[0]
