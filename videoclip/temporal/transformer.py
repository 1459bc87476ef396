"""CLIP4Clip's temporal transformer (Luo et al., 2021, arXiv:2104.08860, "seqTransf")."""

import torch
from torch import Tensor, nn

from videoclip.layers import TemporalTransformer, check_positions, initialise
from videoclip.temporal import TemporalEncoder


class Transformer(TemporalEncoder):
    """Learned positions are added, blocks of self-attention applied, the plain frames added back.

    Equal to the authors' code. They start the positions and blocks from CLIP's text tower; here they start from
    N(0, 0.02).

    Args:
        width: D.
        layers: number of blocks.
        heads: attention heads; width / 64 and at least 1 when not given.
        max_positions: the longest clip, in frames; CLIP's text tower, the original's source, has 77.
    """

    def __init__(self, width: int, layers: int = 4, heads: int | None = None, max_positions: int = 77) -> None:
        super().__init__()
        self.positions = nn.Embedding(max_positions, width)
        self.transformer = TemporalTransformer(width, layers, heads)
        initialise(self)

    def encode(self, frames: Tensor, mask: Tensor) -> Tensor:
        """(B, T, D) -> (B, T, D); T at most ``max_positions``."""
        check_positions(frames, self.positions)
        positions = self.positions(torch.arange(frames.shape[1], device=frames.device))
        mixed: Tensor = self.transformer(frames + positions, mask)
        return mixed + frames
