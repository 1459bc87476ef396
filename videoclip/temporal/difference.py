"""CLIP2Video's temporal difference block (Fang et al., 2021, arXiv:2106.11097)."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Literal

import torch
from einops import rearrange
from torch import Tensor, nn

from videoclip.features import VideoFeatures
from videoclip.layers import Positions, TemporalTransformer, initialise, start_from_text_tower
from videoclip.temporal import TemporalEncoder


class Difference(TemporalEncoder):
    """Differences of neighbouring frames are woven between the frames as extra tokens for a transformer.

    The outputs at the frames' places are added to the plain frames. Differs from the authors' code in two points,
    both of padded clips only: their attention masks are shared out to the wrong videos, and they take the
    difference between the last real frame and the padding for real. The first is always right here; the second
    comes back with ``difference_mask="original"``.

    Args:
        width: D.
        projection: what is done to the differences: ``attention`` (one transformer block over them), ``mlp`` (a
            matrix), both followed by LayerNorm and 2 * sigmoid - 1, or ``plain`` (nothing).
        layers: number of blocks over frames and differences.
        heads: attention heads; width / 64 and at least 1 when not given.
        max_positions: rows of the position table, stretched over longer clips.
        difference_mask: ``both``: a difference is real where both its frames are; ``original``: where its first
            frame is, so that the result depends on what the padding holds, as in the authors' code.
        coarse: a branch of one block over every second frame, for the alignment similarity: ``frames`` takes those
            frames with positions, ``difference`` also their differences, as above and with the same parameters.
    """

    def __init__(
        self,
        width: int,
        projection: Literal["attention", "mlp", "plain"] = "attention",
        layers: int = 4,
        heads: int | None = None,
        max_positions: int = 77,
        difference_mask: Literal["both", "original"] = "both",
        coarse: Literal["none", "frames", "difference"] = "none",
    ) -> None:
        super().__init__()
        self.projection, self.difference_mask, self.coarse = projection, difference_mask, coarse
        self.zero_padding = difference_mask == "both"
        self.positions = Positions(max_positions, width)
        self.types = nn.Embedding(2, width)  # row 0 differences, row 1 frames
        self.transformer = TemporalTransformer(width, layers, heads)
        if projection == "attention":
            self.difference_transformer = TemporalTransformer(width, 1, heads)
        if projection == "mlp":
            self.difference_linear = nn.Linear(width, width, bias=False)
        if projection != "plain":
            self.difference_norm = nn.LayerNorm(width)
        if coarse != "none":
            self.coarse_transformer = TemporalTransformer(width, 1, heads)
        initialise(self)

    def start_from(self, clip: Mapping[str, Tensor]) -> None:
        """Positions, types and blocks of the text tower; the matrix of ``mlp`` from the image projection's rows."""
        named = ("transformer", "difference_transformer", "coarse_transformer")
        start_from_text_tower(clip, self.positions, *(getattr(self, name) for name in named if hasattr(self, name)))
        start_from_text_tower(clip, self.types)
        projection = clip.get("visual.proj")
        width = self.positions.embedding_dim
        if self.projection == "mlp" and projection is not None and projection.shape[0] >= width == projection.shape[1]:
            self.difference_linear.weight.data.copy_(projection[:width].T)

    def forward(self, video: VideoFeatures) -> VideoFeatures:
        """As every temporal encoder; with ``coarse`` the result has it too."""
        encoded = super().forward(video)
        if self.coarse == "none":
            return encoded
        frames, mask = video.frames[:, ::2], video.mask[:, ::2]
        if self.zero_padding:
            frames = frames.masked_fill(~mask[..., None], 0)
        coarse = self._encode_coarse(frames.to(self.types.weight.dtype), mask).to(frames.dtype)
        return replace(encoded, coarse=coarse.masked_fill(~mask[..., None], 0))

    def encode(self, frames: Tensor, mask: Tensor) -> Tensor:
        """(B, T, D) -> (B, T, D)."""
        tokens, added, token_mask = self.tokens(frames, mask)
        mixed: Tensor = self.transformer(tokens + added, token_mask)
        return mixed[:, 0::2] + frames

    def tokens(self, frames: Tensor, mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Frame, difference, frame, ...: tokens (B, 2T-1, D), positions plus types (1 or B, 2T-1, D), their mask."""
        positions = self.positions(mask)
        added = _weave(positions + self.types.weight[1], positions[:, :-1] + self.types.weight[0])
        real = mask[:, :-1] if self.difference_mask == "original" else mask[:, :-1] & mask[:, 1:]
        return _weave(frames, self._differences(frames, mask, positions)), added, _weave(mask, real)

    def _differences(self, frames: Tensor, mask: Tensor, positions: Tensor) -> Tensor:
        change = frames[:, 1:] - frames[:, :-1]
        if self.projection == "plain" or not change.shape[1]:
            return change
        if self.projection == "attention":
            change = self.difference_transformer(change + positions[:, 1:], mask[:, 1:])
        else:
            change = self.difference_linear(change)
        return 2 * torch.sigmoid(self.difference_norm(change)) - 1

    def _encode_coarse(self, frames: Tensor, mask: Tensor) -> Tensor:
        """(B, T', D) -> (B, T', D): one block, positions counted anew, the frames added back."""
        if self.coarse == "frames":
            mixed: Tensor = self.coarse_transformer(frames + self.positions(mask), mask)
            return mixed + frames
        tokens, added, token_mask = self.tokens(frames, mask)
        woven: Tensor = self.coarse_transformer(tokens + added, token_mask)
        return woven[:, 0::2] + frames


def _weave(first: Tensor, between: Tensor) -> Tensor:
    """(B, T, ...) and (B, T-1, ...) -> (B, 2T-1, ...), taken in turn."""
    pairs = torch.stack([first[:, :-1], between], 2)
    return torch.cat([rearrange(pairs, "b t two ... -> b (t two) ..."), first[:, -1:]], 1)
