"""Mug-STAN's mutual-guided alignment (Liu et al., 2023, arXiv:2311.15075), a head without parameters."""

from typing import Literal

import torch
from torch import Tensor

from videoclip.features import TextFeatures, VideoFeatures
from videoclip.layers import cosines, mask_bias, masked_softmax, unit
from videoclip.similarity import Similarity, words_of


class Mutual(Similarity):
    """Words are guided by the frames they are close to, frames by their words, and what is guided is compared.

    The start and the end token count as words. Differs from the authors' code in padding: frames have no mask there,
    a cosine of exactly zero is taken for padding, and in the ``full`` form padded words take part in the text's vector,
    which ``padding="original"`` brings back.

    Args:
        width: D.
        form: ``simple``: the mean over both sides of the cosines, averaged twice by their own softmax; ``full``: the
            product of a text vector and a video vector that the same weights make; ``sentence``: the whole sentence
            in place of the words (their "frame_text"), on the video's side alone.
        sharpness: factor of the cosines in every softmax.
        padding: ``ignored`` or ``original``, see above.
    """

    def __init__(
        self,
        width: int,
        form: Literal["simple", "full", "sentence"] = "simple",
        sharpness: float = 100.0,
        padding: Literal["ignored", "original"] = "ignored",
    ) -> None:
        super().__init__()
        self.form, self.sharpness = form, sharpness
        self.needs_words = form != "sentence"
        self.zero_padding = padding == "ignored"

    def score(self, text: TextFeatures, video: VideoFeatures) -> Tensor:
        """(Q, B); intermediates are (q, L, T, b)."""
        frames = unit(video.frames)
        if self.form == "sentence":
            sentence = unit(text.sentence)
            return self.in_blocks(self._expected, (sentence,), (frames, video.mask), 4 * frames.shape[1])
        words, mask = words_of(text, cut=self.zero_padding)
        parts = (unit(words), mask), (frames, video.mask)
        return self.in_blocks(self._guide, *parts, 6 * words.shape[1] * frames.shape[1])

    def weigh(self, text: TextFeatures, video: VideoFeatures) -> Tensor:
        """(Q, B, T) of the ``sentence`` form."""
        if self.form != "sentence":
            return super().weigh(text, video)
        return masked_softmax(self.sharpness * cosines(text.sentence, video.frames), video.mask)

    def _expected(self, sentence: Tensor, frames: Tensor, mask: Tensor) -> Tensor:
        cosine = torch.einsum("qd,btd->qbt", sentence, frames)
        return (cosine * masked_softmax(self.sharpness * cosine, mask)).sum(-1)

    def _guide(self, words: Tensor, word_mask: Tensor, frames: Tensor, frame_mask: Tensor) -> Tensor:
        """words (q, L, D), frames (b, T, D) -> (q, b); videos come last in between."""
        shape = (*word_mask.shape, frames.shape[1], frames.shape[0])
        products = (words.flatten(0, 1) @ frames.transpose(0, 1).flatten(0, 1).T).view(shape)
        cosine = products if self.zero_padding else products * word_mask[:, :, None, None]
        by_word, by_frame = mask_bias(word_mask[..., None], cosine.dtype), mask_bias(frame_mask.T, cosine.dtype)
        of_words = (products * self._shares(cosine, by_frame, 2)).sum(2)  # (q, L, b): mean by a word's own softmax
        of_frames = (products * self._shares(cosine, by_word[..., None], 1)).sum(1)  # (q, T, b)
        if self.form == "simple":
            by_words = (of_words * self._shares(of_words, by_word, 1)).sum(1)
            return (by_words + (of_frames * self._shares(of_frames, by_frame, 1)).sum(1)) / 2
        word_share = self._shares(of_words, by_word if self.zero_padding else torch.zeros_like(by_word), 1)
        frame_share = self._shares(of_frames, by_frame, 1)
        return torch.einsum("qlb,qltb,qtb->qb", word_share, products, frame_share)

    def _shares(self, cosine: Tensor, bias: Tensor, dim: int) -> Tensor:
        return torch.add(bias, cosine, alpha=self.sharpness).softmax(dim)
