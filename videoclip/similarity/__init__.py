"""Similarities: texts x videos -> scores. One file each; the file's name is the public name."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from videoclip.features import TextFeatures, VideoFeatures

CACHE_MIB = 16  # what a block's intermediates may take without gradients: little enough to stay in a processor's cache


class Similarity(nn.Module):
    """Base of every similarity.

    A subclass takes ``width`` (D) as its first argument and its options as keyword arguments, and implements
    ``score``. What it may rely on: features have the dtype of its parameters, or at least single precision where it
    has none, and zeros in padded slots.

    Attributes:
        needs_words: whether ``score`` reads ``text.words`` and ``text.mask``.
        scale_logits: False where scores are logits as they are, not cosines to be multiplied by the temperature.
        zero_padding: set to False only to repeat an original that reads what lies in padded slots.
        memory_mib: how much the intermediates of ``in_blocks`` may take.
    """

    needs_words: bool = False
    scale_logits: bool = True
    zero_padding: bool = True
    memory_mib: float = 512

    def score(self, text: TextFeatures, video: VideoFeatures) -> Tensor:
        """Scores (Q, B): cosines, or logits where ``scale_logits`` is False."""
        raise NotImplementedError

    def terms(self, text: TextFeatures, video: VideoFeatures) -> list[tuple[float, Tensor]]:
        """Scores (Q, B) that are trained each by a loss of its own, with their weights; here one, ``score`` itself."""
        return [(1.0, self.score(text, video))]

    def auxiliary_loss(self, text: TextFeatures, video: VideoFeatures) -> Tensor | None:
        """A loss of the similarity's own, a scalar, that training adds to the contrastive one; most have none.

        ``video`` (B) has passed the temporal encoder, text i (B) belongs to video i.
        """
        return None

    def guided(self, text: TextFeatures, video: VideoFeatures) -> Tensor:
        """Sentences (B, D) as they are compared with their own videos, for losses of the temporal encoder."""
        return text.sentence

    def weigh(self, text: TextFeatures, video: VideoFeatures) -> Tensor:
        """Weights (Q, B, T) behind ``frame_weights``, under the same promises as ``score``."""
        raise NotImplementedError(f"{type(self).__name__} gives no weight to single frames.")

    def pool(self, video: VideoFeatures) -> Tensor:
        """One vector a video (B, D), of unit length, for an index.

        Raises:
            NotImplementedError: the pooled vector depends on the text.
        """
        raise NotImplementedError(f"{type(self).__name__} pools frames by the text: there is no vector to index.")

    def start_from(self, clip: Mapping[str, Tensor]) -> None:
        """Take initial values from CLIP, given its parameters under OpenAI's names; most similarities take none."""

    def forward(self, text: TextFeatures, video: VideoFeatures) -> Tensor:
        """Scores (Q, B) in the dtype of the sentences."""
        return self.score(*self.prepared(text, video)).to(text.sentence.dtype)

    def frame_weights(self, text: TextFeatures, video: VideoFeatures) -> Tensor:
        """How much each frame counts for each text: (Q, B, T), zero in padded slots, summing to 1 over T.

        Raises:
            NotImplementedError: this similarity has no such weights.
        """
        return self.weigh(*self.prepared(text, video)).to(text.sentence.dtype)

    def prepared(self, text: TextFeatures, video: VideoFeatures) -> tuple[TextFeatures, VideoFeatures]:
        """Features as ``score``, ``terms``, ``guided`` and ``auxiliary_loss`` expect them."""
        widest = torch.promote_types(text.sentence.dtype, torch.float32)
        dtype = next((p.dtype for p in self.parameters()), widest)
        text, video = text.to(dtype), video.to(dtype)
        if not self.zero_padding:
            return text, video
        return _without_padding(text) if self.needs_words else text, video.cleaned()

    def in_blocks(
        self, compare: Callable[..., Tensor], text: Sequence[Tensor], video: Sequence[Tensor], numbers: int
    ) -> Tensor:
        """Scores (Q, B) by ``compare(*text parts, *video parts)`` -> (q, b), for blocks of texts and videos in turn.

        Exact, whatever the blocks. They take no more than ``memory_mib``, and without gradients only what fits a
        processor's cache; with gradients, where one block is not enough, each is computed again for its gradient.

        Args:
            compare: takes parts whose first axes are q texts and b videos.
            text, video: tensors (Q, ...) and (B, ...).
            numbers: how many the intermediates of one pair hold.
        """
        mib = self.memory_mib if torch.is_grad_enabled() else min(self.memory_mib, CACHE_MIB)
        pairs = max(1, int(mib * 2**20 / (4 * numbers)))
        queries, videos = len(text[0]), len(video[0])
        if queries * videos <= pairs:
            return compare(*text, *video)
        side = math.isqrt(pairs)
        if side > 16:
            side -= side % 16  # whole vector registers along the videos, which come last in most intermediates
        columns = min(videos, max(1, side, pairs // max(1, queries)))
        rows = max(1, pairs // columns)
        blocks = [part.split(columns) for part in video]
        lines = []
        for parts in zip(*(part.split(rows) for part in text), strict=True):
            line = [_again(compare, *parts, *block) for block in zip(*blocks, strict=True)]
            lines.append(torch.cat(line, 1))
        return torch.cat(lines)


def matched(similarity: Similarity, text: TextFeatures, video: VideoFeatures, group: int = 8) -> list[Tensor]:
    """The scores (B,) of each text i with video i alone, one for each of the similarity's ``terms``.

    In small groups of pairs, so that few scores are computed that nobody reads.
    """
    found = []
    for start in range(0, len(text), group):
        index = slice(start, start + group)
        terms = similarity.terms(*similarity.prepared(text[index], video[index]))
        found.append([scores.diagonal() for _, scores in terms])
    return [torch.cat(parts) for parts in zip(*found, strict=True)]


def words_of(text: TextFeatures, cut: bool = True) -> tuple[Tensor, Tensor]:
    """Words (Q, L, D) and mask (Q, L), cut to the longest text if so wished.

    Raises:
        ValueError: the text has no words.
    """
    if text.words is None or text.mask is None:
        raise ValueError("This similarity reads words: give it texts that were encoded with words=True.")
    if not cut or not text.mask.numel():
        return text.words, text.mask
    places = torch.arange(1, text.mask.shape[1] + 1, device=text.mask.device)
    longest = max(1, int((text.mask * places).max()))
    return text.words[:, :longest], text.mask[:, :longest]


def _again(compare: Callable[..., Tensor], *parts: Tensor) -> Tensor:
    """Compare; where gradients are wanted, without keeping the intermediates."""
    if not torch.is_grad_enabled():
        return compare(*parts)
    found: Tensor = checkpoint(compare, *parts, use_reentrant=False)
    return found


def _without_padding(text: TextFeatures) -> TextFeatures:
    if text.words is None or text.mask is None:
        return text
    return replace(text, words=text.words.masked_fill(~text.mask[..., None], 0))
