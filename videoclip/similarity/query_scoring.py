"""Query scoring (Bain et al., 2022, A CLIP-Hitchhiker's Guide to Long Video Retrieval, arXiv:2205.08508)."""

import torch
from torch import Tensor

from videoclip.features import TextFeatures, VideoFeatures
from videoclip.layers import cosine_of_sum, cosines, masked_softmax, unit
from videoclip.similarity import Similarity


class QueryScoring(Similarity):
    """Cosine of the sentence with the sum of the frames weighted by softmax(cosine / temperature).

    The authors' code builds the weighted sums (Q, B, D); here the same number comes from cosines and each video's Gram
    matrix. Differs from it by masking padded frames, of which it knows none.

    Args:
        width: D.
        temperature: towards 0 the best frame decides alone, towards infinity all count the same.
        normalize_frames: give each frame unit length first, as X-Pool's parameter-free attention does
            (arXiv:2203.15086); Hitchhiker sums plain embeddings.
    """

    def __init__(self, width: int, temperature: float = 0.1, normalize_frames: bool = False) -> None:
        super().__init__()
        if temperature <= 0:
            raise ValueError(f"temperature must be positive, not {temperature}.")
        self.temperature, self.normalize_frames = temperature, normalize_frames

    def score(self, text: TextFeatures, video: VideoFeatures) -> Tensor:
        """(Q, B)."""
        frames = unit(video.frames) if self.normalize_frames else video.frames
        parts = (frames, frames @ frames.transpose(1, 2), video.mask)
        return self.in_blocks(self._compare, (unit(text.sentence),), parts, 8 * frames.shape[1])

    def weigh(self, text: TextFeatures, video: VideoFeatures) -> Tensor:
        """(Q, B, T)."""
        return masked_softmax(cosines(text.sentence, video.frames) / self.temperature, video.mask)

    def _compare(self, sentence: Tensor, frames: Tensor, gram: Tensor, mask: Tensor) -> Tensor:
        products = torch.einsum("qd,btd->qbt", sentence, frames)
        lengths = gram.diagonal(dim1=1, dim2=2).clamp(min=1e-12).sqrt()
        weights = masked_softmax(products / lengths / self.temperature, mask)
        return cosine_of_sum(weights, products, gram)
