"""CLIP4Clip's cross transformer (Luo et al., 2021, arXiv:2104.08860, "tightTransf"); DRL's "xti"."""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from videoclip.features import TextFeatures, VideoFeatures
from videoclip.layers import Positions, QuickGELU, TemporalTransformer, initialise, start_from_text_tower
from videoclip.similarity import Similarity


class Cross(Similarity):
    """Sentence and frames of every pair pass a transformer together, and a linear layer reads a score off the first.

    Equal to the authors' code. Dear: every pair of a text and a video costs a whole transformer, so use it to re-rank.

    Args:
        width: D.
        layers: number of blocks.
        heads: attention heads; width / 64 and at least 1 when not given.
        max_positions: rows of the position table, one for the sentence; stretched over longer clips.
        dropout: while training, on what enters the transformer.
        temperature: whether the scores are multiplied by the learned temperature in training, as DRL does with its 8
            heads (arXiv:2203.07111) and CLIP4Clip does not.
    """

    def __init__(
        self,
        width: int,
        layers: int = 4,
        heads: int | None = None,
        max_positions: int = 77,
        dropout: float = 0.1,
        temperature: bool = False,
    ) -> None:
        super().__init__()
        self.scale_logits = temperature
        self.positions = Positions(max_positions, width)
        self.dropout = nn.Dropout(dropout)
        self.transformer = TemporalTransformer(width, layers, heads)
        self.pooler = nn.Sequential(nn.LayerNorm(width, eps=1e-12), nn.Linear(width, width), QuickGELU())
        self.read = nn.Linear(width, 1)
        initialise(self)

    def start_from(self, clip: Mapping[str, Tensor]) -> None:
        """Positions and blocks of the text tower."""
        start_from_text_tower(clip, self.positions, self.transformer)

    def score(self, text: TextFeatures, video: VideoFeatures) -> Tensor:
        """(Q, B)."""
        numbers = 20 * (1 + video.frames.shape[1]) * video.frames.shape[2]
        return self.in_blocks(self._compare, (text.sentence,), (video.frames, video.mask), numbers)

    def _compare(self, sentence: Tensor, frames: Tensor, mask: Tensor) -> Tensor:
        q, b = len(sentence), len(frames)
        mask = F.pad(mask, (1, 0), value=True)
        mask, places = mask.repeat(q, 1), self.positions(mask).expand(b, -1, -1).repeat(q, 1, 1)
        pairs = torch.cat([sentence.repeat_interleave(b, 0)[:, None], frames.repeat(q, 1, 1)], 1)
        mixed = self.transformer(self.dropout(pairs + places), mask, first=1)
        scores: Tensor = self.read(self.pooler(mixed[:, 0]))
        return scores.view(q, b)
