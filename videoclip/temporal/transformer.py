"""CLIP4Clip's temporal transformer (Luo et al., 2021, arXiv:2104.08860, "seqTransf")."""

from collections.abc import Mapping
from typing import Literal

from torch import Tensor

from videoclip.layers import Positions, TemporalTransformer, initialise, start_from_text_tower
from videoclip.temporal import TemporalEncoder


class Transformer(TemporalEncoder):
    """Learned positions are added, blocks of self-attention applied, the plain frames added back.

    Equal to the authors' code. With 6 layers that start at random it is ActionCLIP's "Transf" (arXiv:2109.08472),
    which has no frame mask.

    Args:
        width: D.
        layers: number of blocks.
        heads: attention heads; width / 64 and at least 1 when not given.
        max_positions: rows of the position table, stretched over longer clips; CLIP's text tower has 77.
        start: initial positions and blocks: those of CLIP's text tower where it has this width, or N(0, 0.02).
    """

    def __init__(
        self,
        width: int,
        layers: int = 4,
        heads: int | None = None,
        max_positions: int = 77,
        start: Literal["text_tower", "random"] = "text_tower",
    ) -> None:
        super().__init__()
        self.start = start
        self.positions = Positions(max_positions, width)
        self.transformer = TemporalTransformer(width, layers, heads)
        initialise(self)

    def start_from(self, clip: Mapping[str, Tensor]) -> None:
        """Positions and blocks of the text tower."""
        if self.start == "text_tower":
            start_from_text_tower(clip, self.positions, self.transformer)

    def encode(self, frames: Tensor, mask: Tensor) -> Tensor:
        """(B, T, D) -> (B, T, D)."""
        mixed: Tensor = self.transformer(frames + self.positions(mask), mask)
        return mixed + frames
