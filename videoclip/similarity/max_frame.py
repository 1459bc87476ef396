"""The best single frame, as CLIPRerank scores key frames (arXiv:2401.08449)."""

import torch
from torch import Tensor

from videoclip.features import TextFeatures, VideoFeatures
from videoclip.layers import unit
from videoclip.similarity import Similarity


class MaxFrame(Similarity):
    """The largest cosine between the sentence and any frame."""

    def __init__(self, width: int) -> None:
        super().__init__()

    def score(self, text: TextFeatures, video: VideoFeatures) -> Tensor:
        """(Q, B)."""
        parts = (unit(video.frames), video.mask)
        sentence = unit(text.sentence)
        return self.in_blocks(_best, (sentence,), parts, 2 * video.mask.shape[1])

    def weigh(self, text: TextFeatures, video: VideoFeatures) -> Tensor:
        """(Q, B, T), 1 at the best frame."""
        frames, sentence = unit(video.frames), unit(text.sentence)
        best = _cosines(sentence, frames, video.mask).argmax(-1, keepdim=True)
        weights = torch.zeros(len(text), *video.mask.shape, device=best.device).scatter(-1, best, 1)
        return weights.masked_fill(~video.mask, 0)


def _best(sentence: Tensor, frames: Tensor, mask: Tensor) -> Tensor:
    return _cosines(sentence, frames, mask).amax(-1)


def _cosines(sentence: Tensor, frames: Tensor, mask: Tensor) -> Tensor:
    """(Q, B, T), -1 in padded slots: the lowest cosine there is."""
    return torch.einsum("qd,btd->qbt", sentence, frames).masked_fill(~mask, -1)
