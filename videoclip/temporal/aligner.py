"""Tem-Adapter's temporal aligner (Chen et al., ICCV 2023, arXiv:2308.08414)."""

import math

import torch
from torch import Tensor, nn

from videoclip.features import TextFeatures, VideoFeatures
from videoclip.layers import hidden_keys
from videoclip.temporal import TemporalEncoder


class Aligner(TemporalEncoder):
    """A transformer encoder over the frames, trained also to let a decoder rebuild the frames from its output.

    The decoder reads frame after frame, and what the encoder made of all of them plus the sentence that belongs to the
    video; the loss is the mean squared error to the frames, language-guided and auto-regressive in the paper's words.
    As in the authors' code the frames are not shifted, so that the decoder sees the frame it is to rebuild, and the
    decoder serves in training alone. Differs from it by masking padded frames, of which it knows none.

    Args:
        width: D.
        layers: blocks of encoder and of decoder.
        heads: attention heads.
        feedforward: width of the hidden layer.
        dropout: while training.
        reconstruction: weight of the loss.
    """

    def __init__(
        self,
        width: int,
        layers: int = 1,
        heads: int = 16,
        feedforward: int = 2048,
        dropout: float = 0.1,
        reconstruction: float = 1.0,
    ) -> None:
        super().__init__()
        self.reconstruction = reconstruction
        self.dropout = nn.Dropout(dropout)
        encoder = nn.TransformerEncoderLayer(width, heads, feedforward, dropout, batch_first=True)
        decoder = nn.TransformerDecoderLayer(width, heads, feedforward, dropout, batch_first=True)
        self.encoder = nn.TransformerEncoder(encoder, layers, enable_nested_tensor=False)
        self.decoder = nn.TransformerDecoder(decoder, layers)
        for parameter in self.parameters():
            if parameter.ndim > 1:
                nn.init.xavier_uniform_(parameter)

    def encode(self, frames: Tensor, mask: Tensor) -> Tensor:
        """(B, T, D) -> (B, T, D)."""
        encoded: Tensor = self.encoder(self._placed(frames), src_key_padding_mask=hidden_keys(mask))
        return encoded

    def auxiliary_loss(self, text: TextFeatures, video: VideoFeatures) -> Tensor | None:
        """The decoder's mean squared error over real frames."""
        if not self.reconstruction:
            return None
        source = video.source.masked_fill(~video.mask[..., None], 0)
        errors = (self.rebuild(source, video, text.sentence) - source).square().mean(-1)
        return self.reconstruction * errors[video.mask].mean()

    def rebuild(self, source: Tensor, video: VideoFeatures, sentence: Tensor) -> Tensor:
        """Frames (B, T, D) from plain frames (B, T, D), encoded ones, and each video's sentence (B, D)."""
        memory = video.frames + sentence[:, None]
        later = torch.ones(2 * (source.shape[1],), dtype=torch.bool, device=source.device).triu(1)
        rebuilt: Tensor = self.decoder(
            self._placed(source), memory, tgt_mask=later, memory_key_padding_mask=hidden_keys(video.mask)
        )
        return rebuilt

    def _placed(self, frames: Tensor) -> Tensor:
        placed: Tensor = self.dropout(frames + sinusoids(frames.shape[1], frames.shape[2]).to(frames))
        return placed


def sinusoids(length: int, width: int) -> Tensor:
    """The fixed positions (T, D) of the first transformer: sines at even channels, cosines at odd ones."""
    rates = torch.exp(torch.arange(0, width, 2) * (-math.log(10000.0) / width))
    angles = torch.arange(length)[:, None] * rates
    return torch.stack([angles.sin(), angles.cos()], -1).flatten(1)
