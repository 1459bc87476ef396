"""X-CLIP's attention over similarity matrices (Ma et al., ACM MM 2022, arXiv:2207.07285; AOSM)."""

from typing import Literal

import torch
from torch import Tensor, nn

from videoclip.features import TextFeatures, VideoFeatures
from videoclip.layers import mask_bias, masked_mean, unit
from videoclip.similarity import Similarity, words_of


class Multigrained(Similarity):
    """Mean of four cosines: sentence with video, words with video, sentence with frames, words with frames.

    Where there are several, a sharp softmax over them, mixed by a learned matrix, weighs them. The video's vector comes
    from the temporal encoder, the frames are the plain ones. The start and the end token count as words. Differs from
    the authors' code in padding, which takes part in every softmax and sum there; ``padding="original"`` brings that
    back, for exactly as many words and frames as the matrices have. All matrices start as the identity, and what lies
    beyond them is mixed with nothing.

    Args:
        width: D.
        max_words: side of the words' matrices.
        max_frames: side of the frames' matrices.
        temperature: of the softmax.
        padding: ``ignored`` or ``original``, see above.
    """

    needs_words = True

    def __init__(
        self,
        width: int,
        max_words: int = 32,
        max_frames: int = 12,
        temperature: float = 0.01,
        padding: Literal["ignored", "original"] = "ignored",
    ) -> None:
        super().__init__()
        self.temperature, self.zero_padding, self.max_words = temperature, padding == "ignored", max_words
        self.whole, self.part = nn.Parameter(torch.eye(width)), nn.Parameter(torch.eye(width))
        self.words, self.words_first, self.words_last = (nn.Parameter(torch.eye(max_words)) for _ in range(3))
        self.frames, self.frames_first, self.frames_last = (nn.Parameter(torch.eye(max_frames)) for _ in range(3))

    def score(self, text: TextFeatures, video: VideoFeatures) -> Tensor:
        """(Q, B); intermediates are (q, L, T, b)."""
        video_vector = unit(masked_mean(unit(video.frames), video.mask))
        sentence = unit(text.sentence)
        words, word_mask, frames, frame_mask = self._parts(text, video)
        texts = sentence, sentence @ self.whole, words, words @ self.part, word_mask
        videos = video_vector, frames, frame_mask
        return self.in_blocks(self._compare, texts, videos, 6 * words.shape[1] * frames.shape[1])

    def words_with_frames(self, text: TextFeatures, video: VideoFeatures) -> Tensor:
        """The last of the four cosines alone, (Q, B)."""
        words, word_mask, frames, frame_mask = self._parts(text, video)
        numbers = 6 * words.shape[1] * frames.shape[1]
        return self.in_blocks(self._fine, (words @ self.part, word_mask), (frames, frame_mask), numbers)

    def _parts(self, text: TextFeatures, video: VideoFeatures) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Words (Q, L, D) and frames (B, T, D) of unit length, and which of them count."""
        words, word_mask = words_of(text, cut=self.zero_padding)
        frame_mask = video.mask
        if not self.zero_padding:
            words, word_mask = words[:, : self.max_words], torch.ones_like(word_mask[:, : self.max_words])
            frame_mask = torch.ones_like(frame_mask)
        return unit(words), word_mask, unit(video.source), frame_mask

    def _compare(
        self,
        sentence: Tensor,
        mapped_sentence: Tensor,
        words: Tensor,
        mapped_words: Tensor,
        word_mask: Tensor,
        video: Tensor,
        frames: Tensor,
        frame_mask: Tensor,
    ) -> Tensor:
        """Texts before and after their matrices, (q, D) and (q, L, D), videos (b, D), (b, T, D) -> (q, b)."""
        with_video = torch.einsum("qld,bd->qlb", words, video)
        with_frames = torch.einsum("qd,btd->qtb", sentence, frames)
        return (
            mapped_sentence @ video.T
            + self._attend(with_video, 1, self.words, word_mask[..., None])
            + self._attend(with_frames, 1, self.frames, frame_mask.T)
            + self._fine(mapped_words, word_mask, frames, frame_mask)
        ) / 4

    def _fine(self, words: Tensor, word_mask: Tensor, frames: Tensor, frame_mask: Tensor) -> Tensor:
        """Mapped words with frames: words first and then frames, and the other way round; the mean of both (q, b).

        Videos come last in between, so that softmaxes and sums over words and frames run along whole rows of memory.
        """
        shape = (*word_mask.shape, frames.shape[1], frames.shape[0])
        cosine = (words.flatten(0, 1) @ frames.transpose(0, 1).flatten(0, 1).T).view(shape)
        of_frames = self._attend(cosine, 1, self.words_first, word_mask[..., None, None])
        of_words = self._attend(cosine, 2, self.frames_first, frame_mask.T)
        by_frames = self._attend(of_frames, 1, self.frames_last, frame_mask.T)
        return (by_frames + self._attend(of_words, 1, self.words_last, word_mask[..., None])) / 2

    def _attend(self, cosine: Tensor, dim: int, matrix: Tensor, mask: Tensor) -> Tensor:
        """Sum along ``dim`` of cosines (q, ..., b), weighted by their softmax times ``matrix``; the axis goes.

        ``mask`` broadcasts to the cosines, which are zero where it is False, since words and frames are.
        """
        bias = mask_bias(mask, cosine.dtype)
        weights = torch.add(bias, cosine, alpha=1 / self.temperature).softmax(dim)
        columns = cosine.flatten(0, dim - 1).flatten(2)  # a product with each, or torch would copy to make one of them
        mixed = torch.bmm(_of_size(matrix, cosine.shape[dim]).expand(len(columns), -1, -1), columns).view(cosine.shape)
        return (weights * mixed).sum(dim)


def _of_size(matrix: Tensor, size: int) -> Tensor:
    """The upper left corner of a square matrix, or the matrix within a larger identity."""
    if size <= len(matrix):
        return matrix[:size, :size]
    return torch.block_diag(matrix, torch.eye(size - len(matrix), dtype=matrix.dtype, device=matrix.device))
