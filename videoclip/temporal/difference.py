"""CLIP2Video's temporal difference block (Fang et al., 2021, arXiv:2106.11097)."""

from typing import Literal

import torch
from einops import rearrange
from torch import Tensor, nn

from videoclip.layers import TemporalTransformer, check_positions, initialise
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
        max_positions: the longest clip, in frames.
        difference_mask: ``both``: a difference is real where both its frames are; ``original``: where its first
            frame is, so that the result depends on what the padding holds, as in the authors' code.
    """

    def __init__(
        self,
        width: int,
        projection: Literal["attention", "mlp", "plain"] = "attention",
        layers: int = 4,
        heads: int | None = None,
        max_positions: int = 77,
        difference_mask: Literal["both", "original"] = "both",
    ) -> None:
        super().__init__()
        self.projection, self.difference_mask = projection, difference_mask
        self.zero_padding = difference_mask == "both"
        self.positions = nn.Embedding(max_positions, width)
        self.types = nn.Embedding(2, width)  # row 0 differences, row 1 frames
        self.transformer = TemporalTransformer(width, layers, heads)
        if projection == "attention":
            self.difference_transformer = TemporalTransformer(width, 1, heads)
        if projection == "mlp":
            self.difference_linear = nn.Linear(width, width, bias=False)
        if projection != "plain":
            self.difference_norm = nn.LayerNorm(width)
        initialise(self)

    def encode(self, frames: Tensor, mask: Tensor) -> Tensor:
        """(B, T, D) -> (B, T, D); T at most ``max_positions``."""
        check_positions(frames, self.positions)
        tokens, added, token_mask = self.tokens(frames, mask)
        mixed: Tensor = self.transformer(tokens + added, token_mask)
        return mixed[:, 0::2] + frames

    def tokens(self, frames: Tensor, mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Frame, difference, frame, ...: tokens (B, 2T-1, D), positions plus types (2T-1, D), mask (B, 2T-1)."""
        places = torch.arange(frames.shape[1], device=frames.device)
        kinds = torch.arange(2 * len(places) - 1, device=frames.device)
        added = self.positions(places.repeat_interleave(2)[:-1]) + self.types(1 - kinds % 2)
        real = mask[:, :-1] if self.difference_mask == "original" else mask[:, :-1] & mask[:, 1:]
        return _weave(frames, self._differences(frames, mask)), added, _weave(mask, real)

    def _differences(self, frames: Tensor, mask: Tensor) -> Tensor:
        change = frames[:, 1:] - frames[:, :-1]
        if self.projection == "plain" or not change.shape[1]:
            return change
        if self.projection == "attention":
            later = torch.arange(1, frames.shape[1], device=frames.device)
            change = self.difference_transformer(change + self.positions(later), mask[:, 1:])
        else:
            change = self.difference_linear(change)
        return 2 * torch.sigmoid(self.difference_norm(change)) - 1


def _weave(first: Tensor, between: Tensor) -> Tensor:
    """(B, T, ...) and (B, T-1, ...) -> (B, 2T-1, ...), taken in turn."""
    pairs = torch.stack([first[:, :-1], between], 2)
    return torch.cat([rearrange(pairs, "b t two ... -> b (t two) ..."), first[:, -1:]], 1)
