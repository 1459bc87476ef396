"""X-CLIP's multi-frame integration transformer (Ni et al., ECCV 2022, arXiv:2208.02816; Microsoft)."""

from torch import Tensor, nn

from videoclip.layers import Positions, TemporalTransformer
from videoclip.temporal import TemporalEncoder


class Integration(TemporalEncoder):
    """Positions are added, one block of self-attention applied, the plain frames added back.

    To be averaged without giving frames unit length first (``similarity: {name: mean, normalize_frames: false}``). The
    rest of that X-CLIP, messages between frames and prompts that read the video, lies inside the towers. Differs from
    the authors' code in two points: padded frames are masked, of which it knows none, and its frame count is fixed
    while clips of any length work here.

    Args:
        width: D.
        layers: number of blocks.
        heads: attention heads; width / 64 and at least 1 when not given.
        max_positions: rows of the position table, stretched over longer clips.
    """

    def __init__(self, width: int, layers: int = 1, heads: int | None = None, max_positions: int = 32) -> None:
        super().__init__()
        self.positions = Positions(max_positions, width)
        self.transformer = TemporalTransformer(width, layers, heads, eps=1e-5)
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.trunc_normal_(module.weight, std=0.02)

    def encode(self, frames: Tensor, mask: Tensor) -> Tensor:
        """(B, T, D) -> (B, T, D)."""
        mixed: Tensor = self.transformer(frames + self.positions(mask), mask)
        return mixed + frames
