"""The best frames of each text, as X-Pool's ablation pools them (Gorti et al., CVPR 2022, arXiv:2203.15086)."""

import torch
from torch import Tensor

from videoclip.features import TextFeatures, VideoFeatures
from videoclip.layers import cosine_of_sum, cosines, unit
from videoclip.similarity import Similarity


class TopK(Similarity):
    """Cosine of the sentence with the mean of the k frames nearest to it, frames of unit length.

    Differs from the authors' code by masking padded frames; a clip of fewer frames has all of its own counted.

    Args:
        width: D.
        k: how many frames count.
    """

    def __init__(self, width: int, k: int = 3) -> None:
        super().__init__()
        if k < 1:
            raise ValueError(f"k must be at least 1, not {k}.")
        self.k = k

    def score(self, text: TextFeatures, video: VideoFeatures) -> Tensor:
        """(Q, B)."""
        frames = unit(video.frames)
        parts = (frames, frames @ frames.transpose(1, 2), video.mask)
        return self.in_blocks(self._compare, (unit(text.sentence),), parts, 6 * frames.shape[1])

    def weigh(self, text: TextFeatures, video: VideoFeatures) -> Tensor:
        """(Q, B, T), equal over the frames that count."""
        chosen = self._chosen(cosines(text.sentence, video.frames), video.mask)
        return chosen / chosen.sum(-1, keepdim=True).clamp(min=1)

    def _compare(self, sentence: Tensor, frames: Tensor, gram: Tensor, mask: Tensor) -> Tensor:
        cosine = torch.einsum("qd,btd->qbt", sentence, frames)
        return cosine_of_sum(self._chosen(cosine, mask), cosine, gram)

    def _chosen(self, cosine: Tensor, mask: Tensor) -> Tensor:
        """(Q, B, T), 1 at the nearest k real frames."""
        k = min(self.k, cosine.shape[-1])
        best = cosine.masked_fill(~mask, -2).topk(k, -1).indices  # -2: below any cosine
        return torch.zeros_like(cosine).scatter(-1, best, 1) * mask
