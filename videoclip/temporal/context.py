"""ConTra's context transformer (Fragomeni et al., ACCV 2022, arXiv:2210.04341)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from videoclip.features import TextFeatures, VideoFeatures
from videoclip.layers import encoder_stack, hidden_keys
from videoclip.loss import uniformity
from videoclip.temporal import TemporalEncoder


class Context(TemporalEncoder):
    """A clip among its neighbours in the long video: reads all, and the output of the middle one stands for the clip.

    The T "frames" are clips, each by its mean frame, in order of time: set ``model.context`` to the number of
    neighbours on each side. The output is the same vector T times, so every similarity sees it. Positions are counted
    from the middle. As in the authors' code, on cached features of width D without an input projection; padded places
    are masked here, and the context of captions, which they also tried, is not offered.

    Args:
        width: D.
        radius: neighbours on each side that have a position; further ones share the outermost.
        layers: number of blocks; one for YouCook2, two for ActivityNet and EPIC.
        heads: attention heads; two for YouCook2.
        feedforward: width of the hidden layer.
        dropout: while training.
        uniformity: weight of the loss that spreads all embeddings over the sphere.
    """

    def __init__(
        self,
        width: int,
        radius: int = 3,
        layers: int = 2,
        heads: int = 8,
        feedforward: int = 2048,
        dropout: float = 0.3,
        uniformity: float = 1.0,
    ) -> None:
        super().__init__()
        self.radius, self.uniformity = radius, uniformity
        self.positions = nn.Parameter(torch.empty(2 * radius + 1, width).normal_(std=0.001))
        self.dropout = nn.Dropout(dropout)
        self.encoder = encoder_stack(width, layers, heads, feedforward, dropout)

    def encode(self, frames: Tensor, mask: Tensor) -> Tensor:
        """(B, T, D) -> (B, T, D), the same vector T times."""
        chosen = (mask & (_from_middle(mask) == 0)).to(frames.dtype)
        middle = torch.einsum("bt,btd->bd", chosen, self.read(frames, mask))
        return middle[:, None].expand_as(frames)

    def read(self, frames: Tensor, mask: Tensor) -> Tensor:
        """All outputs (B, T, D) of the encoder."""
        place = (_from_middle(mask) + self.radius).clamp(0, 2 * self.radius)
        placed = self.dropout(frames + self.positions[place])
        read: Tensor = self.encoder(placed, src_key_padding_mask=hidden_keys(mask))
        return read

    def auxiliary_loss(self, text: TextFeatures, video: VideoFeatures) -> Tensor | None:
        """The uniformity of texts and videos together."""
        if not self.uniformity:
            return None
        middle = video.frames.sum(1) / video.mask.sum(1, keepdim=True).clamp(min=1)
        together = torch.cat([F.normalize(middle, dim=-1), F.normalize(text.sentence, dim=-1)])
        return self.uniformity * uniformity(together)


def _from_middle(mask: Tensor) -> Tensor:
    """(B, T): how many real places each one lies after the middle one, of which there are count // 2 before."""
    return mask.cumsum(1) - 1 - mask.sum(1, keepdim=True) // 2
