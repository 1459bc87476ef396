"""DRL's token interaction (Wang et al., 2022, arXiv:2203.07111): TI and WTI, with channel decorrelation."""

import itertools
from typing import Literal

import torch
from torch import Tensor, nn

from videoclip.features import TextFeatures, VideoFeatures
from videoclip.layers import initialise, masked_softmax, unit
from videoclip.loss import distance_from_identity, standardised
from videoclip.similarity import Similarity, words_of

EXCLUDED = -4.0  # added to the cosine of a padded place, so that it is below every real one


class Tokens(Similarity):
    """Every word takes its best frame, every frame its best word; the weighted means of both are averaged.

    With ``layers`` 1 it is also Mug-STAN's "drl_wti" head. The start and the end token count as words. Differs from the
    authors' code in what padding does: they multiply its cosines by zero, and zero is the best of a word whose cosines
    are all negative. Here padding never counts; ``padding="original"`` brings theirs back. Their form for whole
    sentences and videos ("dp") is the similarity ``mean``, their cross transformer ("xti") is ``cross``.

    Args:
        width: D.
        weights: ``learned``: a small network reads each word or frame and a softmax makes weights of it (WTI);
            ``uniform``: all real ones count the same (TI).
        layers: of those networks, with ReLU between.
        padding: ``ignored`` or ``original``, see above.
        decorrelation: weight of the channel decorrelation loss between each word and its best frame and each frame
            and its best word; 0 switches it off. On padded clips behind a temporal transformer it differs from the
            authors' code (10.88 here and 11.20 there for the same weights and batch): there padded places keep what the
            transformer made of them, and a word may choose one as its best frame; here they hold zeros.
        decorrelation_weights: whether pairs count in it by their ``learned`` weights or all the same (``uniform``).
        diagonal, off_diagonal: weights within that loss, see ``videoclip.loss.distance_from_identity``.
    """

    needs_words = True

    def __init__(
        self,
        width: int,
        weights: Literal["learned", "uniform"] = "learned",
        layers: int = 2,
        padding: Literal["ignored", "original"] = "ignored",
        decorrelation: float = 0.0,
        decorrelation_weights: Literal["learned", "uniform"] = "learned",
        diagonal: float = 1.0,
        off_diagonal: float = 0.06,
    ) -> None:
        super().__init__()
        self.zero_padding = padding == "ignored"
        self.excluded = EXCLUDED if self.zero_padding else 0.0
        self.decorrelation, self.diagonal, self.off_diagonal = decorrelation, diagonal, off_diagonal
        self.weigh_channels = decorrelation_weights == "learned"
        self.text_weights = _network(width, layers) if weights == "learned" else None
        self.video_weights = _network(width, layers) if weights == "learned" else None
        initialise(self)

    def score(self, text: TextFeatures, video: VideoFeatures) -> Tensor:
        """(Q, B); intermediates are (q, L, T, b)."""
        words, word_mask = words_of(text, cut=self.zero_padding)
        word_share, frame_share = self._shares(words, word_mask, video)
        with_masks = (
            _with_mask(words, word_mask, self.excluded, 0),
            _with_mask(video.frames, video.mask, self.excluded, 1),
        )
        numbers = 2 * words.shape[1] * video.frames.shape[1]
        return self.in_blocks(_interact, (with_masks[0], word_share), (with_masks[1], frame_share), numbers)

    def auxiliary_loss(self, text: TextFeatures, video: VideoFeatures) -> Tensor | None:
        """Channel decorrelation of the matched pairs, where asked for."""
        return self.decorrelation * self.channel_loss(text, video) if self.decorrelation else None

    def channel_loss(self, text: TextFeatures, video: VideoFeatures) -> Tensor:
        """Distance of the mean of two cross-correlations (D, D) from the identity: of words with their best frames,
        and of frames with their best words; text i belongs to video i.
        """
        words, mask = words_of(text, cut=self.zero_padding)
        shares = self._shares(words, mask, video)
        words, frames = unit(words), unit(video.frames)
        cosine = torch.einsum("bld,btd->blt", words, frames)
        both = mask[:, :, None] & video.mask[:, None]
        cosine = cosine.masked_fill(~both, self.excluded)
        rows = torch.arange(len(words), device=words.device)[:, None]
        pairs = (
            (words, frames[rows, cosine.argmax(2)], mask, shares[0]),
            (frames, words[rows, cosine.argmax(1)], video.mask, shares[1]),
        )
        correlations = [self._correlation(a[real], b[real], share[real], len(words)) for a, b, real, share in pairs]
        return distance_from_identity(torch.stack(correlations).mean(0), self.diagonal, self.off_diagonal)

    def _correlation(self, first: Tensor, second: Tensor, share: Tensor, pairs: int) -> Tensor:
        """Cross-correlation (D, D) of rows (N, D) with the weights (N,) of words or frames, which sum to ``pairs``."""
        each = (share / pairs)[:, None] if self.weigh_channels else 1 / len(first)
        return (standardised(first) * each).T @ standardised(second)

    def _shares(self, words: Tensor, mask: Tensor, video: VideoFeatures) -> tuple[Tensor, Tensor]:
        """How much each word (Q, L) and each frame (B, T) counts."""
        if self.text_weights is None or self.video_weights is None:
            return _uniform(mask, words), _uniform(video.mask, video.frames)
        word = masked_softmax(self.text_weights(words).squeeze(-1), mask)
        return word, masked_softmax(self.video_weights(video.frames).squeeze(-1), video.mask)


def _interact(words: Tensor, word_share: Tensor, frames: Tensor, frame_share: Tensor) -> Tensor:
    """words (q, L, D), frames (b, T, D) and their weights -> (q, b).

    Videos come last in the intermediate (q, L, T, b), so that both maxima run along whole rows of memory.
    """
    q, length = word_share.shape
    b, count = frame_share.shape
    cosine = words.flatten(0, 1) @ frames.transpose(0, 1).flatten(0, 1).T
    of_words = cosine.view(q * length, count, b).amax(1).view(q, length, b)
    of_frames = cosine.view(q, length, count * b).amax(1).view(q, count, b)
    by_words = torch.einsum("qlb,ql->qb", of_words, word_share)
    return (by_words + torch.einsum("qtb,bt->qb", of_frames, frame_share)) / 2


def _with_mask(features: Tensor, mask: Tensor, excluded: float, column: int) -> Tensor:
    """Features (N, L, D) of unit length with two more channels, so that a product of words and frames also adds
    ``excluded`` for each padded side: this side's number meets a one of the other side.
    """
    channels = [torch.ones_like(features[..., :1]), (~mask).to(features.dtype)[..., None] * excluded]
    return torch.cat([unit(features) * mask[..., None], channels[column], channels[1 - column]], -1)


def _uniform(mask: Tensor, like: Tensor) -> Tensor:
    return mask.to(like.dtype) / mask.sum(1, keepdim=True).clamp(min=1)


def _network(width: int, layers: int) -> nn.Sequential:
    hidden = [(nn.Linear(width, width), nn.ReLU()) for _ in range(layers - 1)]
    return nn.Sequential(*itertools.chain(*hidden), nn.Linear(width, 1))
