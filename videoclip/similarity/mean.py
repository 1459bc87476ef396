"""Mean pooling over frames: the baseline of every system."""

from torch import Tensor

from videoclip.features import TextFeatures, VideoFeatures
from videoclip.layers import masked_mean, unit
from videoclip.loss import channel_decorrelation
from videoclip.similarity import Similarity


class Mean(Similarity):
    """Cosine of the sentence with the mean frame.

    Args:
        width: D.
        normalize_frames: give each frame unit length before the mean, as CLIP4Clip does (Luo et al., 2021,
            arXiv:2104.08860); False takes the mean of plain embeddings, as Hitchhiker (arXiv:2205.08508),
            ViFi-CLIP and STAN do.
        decorrelation: weight of DRL's channel decorrelation loss (arXiv:2203.07111) between sentences and videos.
        diagonal, off_diagonal: weights within that loss, see ``videoclip.loss.channel_decorrelation``.
    """

    def __init__(
        self,
        width: int,
        normalize_frames: bool = True,
        decorrelation: float = 0.0,
        diagonal: float = 1.0,
        off_diagonal: float = 0.06,
    ) -> None:
        super().__init__()
        self.normalize_frames = normalize_frames
        self.decorrelation, self.diagonal, self.off_diagonal = decorrelation, diagonal, off_diagonal

    def score(self, text: TextFeatures, video: VideoFeatures) -> Tensor:
        """(Q, B)."""
        return unit(text.sentence) @ self.pool(video).T

    def pool(self, video: VideoFeatures) -> Tensor:
        """(B, D), of unit length."""
        frames = unit(video.frames) if self.normalize_frames else video.frames
        return unit(masked_mean(frames, video.mask))

    def auxiliary_loss(self, text: TextFeatures, video: VideoFeatures) -> Tensor | None:
        """Channel decorrelation of the matched pairs, where asked for."""
        if not self.decorrelation:
            return None
        sentence = unit(text.sentence)
        loss = channel_decorrelation(sentence, self.pool(video), self.diagonal, self.off_diagonal)
        return self.decorrelation * loss

    def weigh(self, text: TextFeatures, video: VideoFeatures) -> Tensor:
        """(Q, B, T), equal over the real frames."""
        weights = video.mask / video.mask.sum(1, keepdim=True).clamp(min=1)
        return weights.expand(len(text), *video.mask.shape)
