"""TS2-Net's temporal transformer over frames and their selected tokens (Liu et al., ECCV 2022, arXiv:2207.07852)."""

from dataclasses import replace

import torch

from videoclip.features import VideoFeatures
from videoclip.temporal.transformer import Transformer


class TokenTransformer(Transformer):
    """CLIP4Clip's temporal transformer reads each frame and the tokens that tuning ``token_selection`` left beside it.

    Only the frames are kept. Without such tokens, as from a store, it reads frames alone. Differs from the authors'
    code in the mask, which they repeat in another order than the tokens: here a padded frame's tokens are masked. Four
    tokens a frame need positions for 4 T places; the table is stretched over longer clips.
    """

    def forward(self, video: VideoFeatures) -> VideoFeatures:
        """Frames (B, T, D) and tokens (B, T k, D) -> frames (B, T, D)."""
        if video.tokens is None:
            return super().forward(video)
        every = torch.cat([video.frames[:, :, None], video.tokens.unflatten(1, (video.mask.shape[1], -1))], 2)
        mask = video.mask.repeat_interleave(every.shape[2], 1)
        encoded = super().forward(VideoFeatures.from_frames(every.flatten(1, 2), mask))
        return replace(video, frames=encoded.frames[:, :: every.shape[2]])
