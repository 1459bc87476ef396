"""TS2-Net's weighted mean of frame similarities (Liu et al., ECCV 2022, arXiv:2207.07852)."""

import torch
from torch import Tensor

from videoclip.features import TextFeatures, VideoFeatures
from videoclip.layers import cosines, masked_softmax, unit
from videoclip.similarity import Similarity


class FrameSoftmax(Similarity):
    """Each frame's cosine, weighted by a softmax over the frames' cosines after these were scaled to unit length.

    Equal to the authors' code.

    Args:
        width: D; nothing depends on it.
        sharpness: factor in the softmax.
    """

    def __init__(self, width: int, sharpness: float = 4.0) -> None:
        super().__init__()
        self.sharpness = sharpness

    def score(self, text: TextFeatures, video: VideoFeatures) -> Tensor:
        """Scores (Q, B)."""
        parts = (unit(video.frames), video.mask)
        return self.in_blocks(self._compare, (unit(text.sentence),), parts, 4 * video.frames.shape[1])

    def weigh(self, text: TextFeatures, video: VideoFeatures) -> Tensor:
        """Weights (Q, B, T)."""
        return self._weights(cosines(text.sentence, video.frames), video.mask)

    def _compare(self, sentence: Tensor, frames: Tensor, mask: Tensor) -> Tensor:
        similarities = torch.einsum("qd,btd->qbt", sentence, frames)
        return (self._weights(similarities, mask) * similarities).sum(-1)

    def _weights(self, similarities: Tensor, mask: Tensor) -> Tensor:
        scaled = torch.nn.functional.normalize(similarities, dim=-1)
        return masked_softmax(self.sharpness * scaled, mask)
