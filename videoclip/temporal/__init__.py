"""Temporal encoders: frames -> frames, no text involved. One file each; the file's name is the public name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor, nn

from videoclip.features import TextFeatures, VideoFeatures


class TemporalEncoder(nn.Module):
    """Base of every temporal encoder.

    A subclass takes ``width`` (D) as its first argument and its options as keyword arguments, and implements
    ``encode``. What it may rely on: ``frames`` has the dtype of its parameters and zeros in padded slots.

    Attributes:
        zero_padding: set to False only to repeat an original that reads what lies in padded slots.
    """

    zero_padding: bool = True

    def encode(self, frames: Tensor, mask: Tensor) -> Tensor:
        """frames (B, T, D), mask (B, T) bool -> frames (B, T, D); padded places may hold anything finite."""
        raise NotImplementedError

    def start_from(self, clip: Mapping[str, Tensor]) -> None:
        """Take initial values from CLIP, given its parameters under OpenAI's names; most encoders take none."""

    def auxiliary_loss(self, text: TextFeatures, video: VideoFeatures) -> Tensor | None:
        """A loss of the encoder's own, a scalar, that training adds to the contrastive one; most have none.

        ``video`` (B) is what the encoder returned, text i (B) belongs to video i.
        """
        return None

    def forward(self, video: VideoFeatures) -> VideoFeatures:
        """Encode; the result keeps mask, seconds, dtype and ``source``, and has zeros in padded slots."""
        padded = ~video.mask[..., None]
        frames = video.frames.masked_fill(padded, 0) if self.zero_padding else video.frames
        parameter = next(self.parameters(), frames)
        encoded = self.encode(frames.to(parameter.dtype), video.mask).to(frames.dtype)
        return replace(video, frames=encoded.masked_fill(padded, 0))


def front(mask: Tensor) -> Tensor:
    """Order (B, T) that brings the real frames of mask (B, T) to the front, each group in its own order."""
    return torch.argsort((~mask).to(torch.uint8), dim=1, stable=True)
