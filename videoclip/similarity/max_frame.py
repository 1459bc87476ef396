"""The best single frame, as CLIPRerank scores key frames (arXiv:2401.08449)."""

import torch
from torch import Tensor

from videoclip.features import TextFeatures, VideoFeatures
from videoclip.layers import cosines
from videoclip.similarity import Similarity


class MaxFrame(Similarity):
    """The largest cosine between the sentence and any frame."""

    def __init__(self, width: int) -> None:
        super().__init__()

    def score(self, text: TextFeatures, video: VideoFeatures) -> Tensor:
        """(Q, B)."""
        return _real_cosines(text, video).amax(-1)

    def weigh(self, text: TextFeatures, video: VideoFeatures) -> Tensor:
        """(Q, B, T), 1 at the best frame."""
        best = _real_cosines(text, video).argmax(-1, keepdim=True)
        weights = torch.zeros(len(text), *video.mask.shape, device=best.device).scatter(-1, best, 1)
        return weights.masked_fill(~video.mask, 0)


def _real_cosines(text: TextFeatures, video: VideoFeatures) -> Tensor:
    return cosines(text.sentence, video.frames).masked_fill(~video.mask, -1)  # -1: the lowest cosine there is
