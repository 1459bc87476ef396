"""Query scoring (Bain et al., 2022, A CLIP-Hitchhiker's Guide to Long Video Retrieval, arXiv:2205.08508)."""

import torch
from torch import Tensor

from videoclip.features import TextFeatures, VideoFeatures
from videoclip.layers import cosines, masked_softmax
from videoclip.similarity import Similarity


class QueryScoring(Similarity):
    """Cosine of the sentence with the sum of the frames weighted by softmax(cosine / temperature).

    The authors' code builds the weighted sums (Q, B, D). Here the same number comes from the cosines and each
    video's Gram matrix G (T, T): with weights w, the sum z has z.t = sum w_t (v_t.t) and |z|^2 = w G w.

    Args:
        width: D.
        temperature: towards 0 the best frame decides alone, towards infinity all count the same.
    """

    def __init__(self, width: int, temperature: float = 0.1) -> None:
        super().__init__()
        if temperature <= 0:
            raise ValueError(f"temperature must be positive, not {temperature}.")
        self.temperature = temperature

    def score(self, text: TextFeatures, video: VideoFeatures) -> Tensor:
        """(Q, B); intermediates are (Q, B, T)."""
        cosine = cosines(text.sentence, video.frames)
        weights = masked_softmax(cosine / self.temperature, video.mask)
        along = (weights * cosine * video.frames.norm(dim=-1)).sum(-1)
        gram = video.frames @ video.frames.transpose(1, 2)
        length = (torch.einsum("qbt,btu->qbu", weights, gram) * weights).sum(-1)
        return along * length.clamp(min=1e-12).rsqrt()

    def weigh(self, text: TextFeatures, video: VideoFeatures) -> Tensor:
        """(Q, B, T)."""
        return masked_softmax(cosines(text.sentence, video.frames) / self.temperature, video.mask)
