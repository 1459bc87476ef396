"""CLIP2Video's temporal alignment block (Fang et al., 2021, arXiv:2106.11097)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from videoclip.features import TextFeatures, VideoFeatures
from videoclip.layers import unit
from videoclip.similarity import Similarity, words_of
from videoclip.similarity.mean import Mean


class Alignment(Similarity):
    """Words and frames are gathered around shared centres; cosine of what gathered, mixed with that of the mean frame.

    The video's tokens are the plain frames and, where the temporal encoder has such a branch, its ``coarse`` frames
    (``temporal: {name: difference, coarse: difference}``). The start token of the text is left out, the end token
    counts. Both cosines are trained by a loss of their own.

    Args:
        width: D.
        centres: how many; the paper takes 5, 7 for VATEX.
        mean_weight: of the mean frame's cosine, the rest is the centres'; 0 aligns alone.
    """

    needs_words = True

    def __init__(self, width: int, centres: int = 5, mean_weight: float = 0.5) -> None:
        super().__init__()
        self.mean, self.mean_weight = Mean(width), mean_weight
        self.assignment = nn.Parameter(torch.randn(centres, width) * 64**-0.5)
        self.centres = nn.Parameter(torch.randn(centres, width) * 64**-0.5)

    def score(self, text: TextFeatures, video: VideoFeatures) -> Tensor:
        """(Q, B)."""
        return torch.stack([weight * scores for weight, scores in self.terms(text, video)]).sum(0)

    def terms(self, text: TextFeatures, video: VideoFeatures) -> list[tuple[float, Tensor]]:
        """The mean frame's cosines and the centres', (Q, B) each."""
        aligned = self.gather_text(text) @ self.gather_video(video).T
        return [(self.mean_weight, self.mean.score(text, video)), (1 - self.mean_weight, aligned)]

    def gather_text(self, text: TextFeatures) -> Tensor:
        """(Q, D) of unit length."""
        words, mask = words_of(text)
        return self._gather(words, torch.cat([torch.zeros_like(mask[:, :1]), mask[:, 1:]], 1))

    def gather_video(self, video: VideoFeatures) -> Tensor:
        """(B, D) of unit length."""
        if video.coarse is None:
            return self._gather(video.source, video.mask)
        return self._gather(torch.cat([video.source, video.coarse], 1), torch.cat([video.mask, video.mask[:, ::2]], 1))

    def _gather(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """Differences of tokens (N, L, D) from the centres, summed by soft assignment, each sum of unit length."""
        shares = F.linear(tokens, self.assignment).softmax(-1) * mask[..., None]
        sums = shares.transpose(1, 2) @ tokens - shares.sum(1)[..., None] * self.centres
        return unit(unit(sums).mean(1))
