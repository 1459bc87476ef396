"""Similarities: texts x videos -> scores. One file each; the file's name is the public name."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from videoclip.features import TextFeatures, VideoFeatures


class Similarity(nn.Module):
    """Base of every similarity.

    A subclass takes ``width`` (D) as its first argument and its options as keyword arguments, and implements
    ``score``. What it may rely on: features have at least single precision, and zeros in padded slots.

    Attributes:
        needs_words: whether ``score`` reads ``text.words`` and ``text.mask``.
    """

    needs_words: bool = False

    def score(self, text: TextFeatures, video: VideoFeatures) -> Tensor:
        """Scores (Q, B) in cosine units."""
        raise NotImplementedError

    def weigh(self, text: TextFeatures, video: VideoFeatures) -> Tensor:
        """Weights (Q, B, T) behind ``frame_weights``, under the same promises as ``score``."""
        raise NotImplementedError(f"{type(self).__name__} gives no weight to single frames.")

    def pool(self, video: VideoFeatures) -> Tensor:
        """One vector a video (B, D), of unit length, for an index.

        Raises:
            NotImplementedError: the pooled vector depends on the text.
        """
        raise NotImplementedError(f"{type(self).__name__} pools frames by the text: there is no vector to index.")

    def forward(self, text: TextFeatures, video: VideoFeatures) -> Tensor:
        """Scores (Q, B) in cosine units, in the dtype of the sentences."""
        return self.score(_exact(text), _clean(video)).to(text.sentence.dtype)

    def frame_weights(self, text: TextFeatures, video: VideoFeatures) -> Tensor:
        """How much each frame counts for each text: (Q, B, T), zero in padded slots, summing to 1 over T.

        Raises:
            NotImplementedError: this similarity has no such weights.
        """
        return self.weigh(_exact(text), _clean(video)).to(text.sentence.dtype)


def score_in_chunks(similarity: Similarity, text: TextFeatures, video: VideoFeatures, limit_mib: float = 256) -> Tensor:
    """Scores (Q, B), computed for so many texts at a time that no intermediate (chunk, B, T) exceeds ``limit_mib``.

    Equal to one call: every text and every video is scored on its own.
    """
    words = text.words.shape[1] if similarity.needs_words and text.words is not None else 1
    bytes_per_text = 4 * video.frames.shape[0] * video.frames.shape[1] * words
    chunk = max(1, int(limit_mib * 2**20 / max(1, bytes_per_text)))
    return torch.cat([similarity(text[i : i + chunk], video) for i in range(0, max(1, len(text)), chunk)])


def _exact(text: TextFeatures) -> TextFeatures:
    return text.to(torch.promote_types(text.sentence.dtype, torch.float32))


def _clean(video: VideoFeatures) -> VideoFeatures:
    """At least single precision, and zeros in padded slots, whatever lay there."""
    dtype = torch.promote_types(video.frames.dtype, torch.float32)
    padded = ~video.mask[..., None]
    return replace(
        video,
        frames=video.frames.to(dtype).masked_fill(padded, 0),
        source=video.source.to(dtype).masked_fill(padded, 0),
    )
