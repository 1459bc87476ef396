"""Mean pooling over frames: the baseline of every system."""

import torch.nn.functional as F
from torch import Tensor

from videoclip.features import TextFeatures, VideoFeatures
from videoclip.layers import masked_mean
from videoclip.similarity import Similarity


class Mean(Similarity):
    """Cosine of the sentence with the mean frame.

    Args:
        width: D.
        normalize_frames: give each frame unit length before the mean, as CLIP4Clip does (Luo et al., 2021,
            arXiv:2104.08860); False takes the mean of plain embeddings, as Hitchhiker (arXiv:2205.08508),
            ViFi-CLIP and STAN do.
    """

    def __init__(self, width: int, normalize_frames: bool = True) -> None:
        super().__init__()
        self.normalize_frames = normalize_frames

    def score(self, text: TextFeatures, video: VideoFeatures) -> Tensor:
        """(Q, B)."""
        return F.normalize(text.sentence, dim=-1) @ self.pool(video).T

    def pool(self, video: VideoFeatures) -> Tensor:
        """(B, D), of unit length."""
        frames = F.normalize(video.frames, dim=-1) if self.normalize_frames else video.frames
        return F.normalize(masked_mean(frames, video.mask), dim=-1)

    def weigh(self, text: TextFeatures, video: VideoFeatures) -> Tensor:
        """(Q, B, T), equal over the real frames."""
        weights = video.mask / video.mask.sum(1, keepdim=True).clamp(min=1)
        return weights.expand(len(text), *video.mask.shape)
