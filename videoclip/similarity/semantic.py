"""Tem-Adapter's semantic aligner (Chen et al., ICCV 2023, arXiv:2308.08414)."""

import torch
from torch import Tensor, nn

from videoclip.features import TextFeatures, VideoFeatures
from videoclip.layers import masked_mean, masked_softmax
from videoclip.similarity import Similarity


class Semantic(Similarity):
    """Each sentence is refined by reading the plain frames; its product with the mean encoded frame is the score.

    Made for multiple choice, see ``choose``, with the temporal encoder ``aligner``. Scores are products of embeddings
    that are not normalised, and so logits as they are. Differs from the authors' code in two points: there each
    candidate reads the frames of another video of the batch, through a slip in the order of rows (equal for a batch of
    one); and padded frames are masked here, of which it knows none.

    Args:
        width: D.
        hidden: width of the aligner.
        heads: attention heads.
        dropout: while training.
    """

    scale_logits = False

    def __init__(self, width: int, hidden: int = 128, heads: int = 16, dropout: float = 0.2) -> None:
        super().__init__()
        if hidden % heads:
            raise ValueError(f"heads must divide hidden: hidden {hidden}, heads {heads}.")
        self.heads = heads
        self.memory = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, hidden), nn.LayerNorm(hidden))
        self.enter = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, hidden))
        self.own = nn.Linear(hidden, hidden, bias=False)  # a sentence is one token, so it attends to itself alone
        self.own_out = nn.Linear(hidden, hidden)
        self.query, self.key, self.value = (nn.Linear(hidden, hidden, bias=False) for _ in range(3))
        self.out = nn.Linear(hidden, hidden)
        self.norm_own, self.norm_read, self.norm_mlp = (nn.LayerNorm(hidden) for _ in range(3))
        self.mlp = nn.Sequential(
            nn.Linear(hidden, 4 * hidden), nn.GELU(), nn.Dropout(dropout), nn.Linear(4 * hidden, hidden)
        )
        self.norm_leave, self.leave = nn.LayerNorm(hidden), nn.Linear(hidden, width)
        self.dropout = nn.Dropout(dropout)
        self.gamma = nn.Parameter(torch.full((width,), 1e-4))
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def score(self, text: TextFeatures, video: VideoFeatures) -> Tensor:
        """(Q, B)."""
        parts = (text.sentence, *self._ask(text.sentence)), (*self._remember(video), video.mask, _mean(video))
        return self.in_blocks(self._compare, *parts, 16 * self.own.in_features)

    def guided(self, text: TextFeatures, video: VideoFeatures) -> Tensor:
        """Sentence i refined by video i: (B, D)."""
        return self.refine(text.sentence[:, None], video)[:, 0]

    def choose(self, candidates: Tensor, video: VideoFeatures) -> Tensor:
        """Scores (B, C) of C candidate answers (B, C, D) to each video; the highest is the answer."""
        return torch.einsum("bcd,bd->bc", self.refine(candidates, video), _mean(video))

    def refine(self, candidates: Tensor, video: VideoFeatures) -> Tensor:
        """Candidates (B, C, D) after reading the plain frames of their own video, (B, C, D)."""
        entered, query = self._ask(candidates)
        keys, values = self._remember(video)
        logits = torch.einsum("bchd,bthd->bcht", query, keys) / query.shape[-1] ** 0.5
        weights = masked_softmax(logits, video.mask[:, None, None])
        read = torch.einsum("bcht,bthd->bchd", weights, values).flatten(2)
        refined: Tensor = candidates + self.gamma * self.leave(self._finish(entered, read))
        return refined

    def _ask(self, sentence: Tensor) -> tuple[Tensor, Tensor]:
        """What the texts alone give: after self-attention (..., hidden), and queries (..., heads, d)."""
        entered = self.enter(sentence)
        entered = entered + self.dropout(self.own_out(self.own(self.norm_own(entered))))
        return entered, self._split(self.query(self.norm_read(entered)))

    def _remember(self, video: VideoFeatures) -> tuple[Tensor, Tensor]:
        """Keys and values (B, T, heads, d) of the plain frames."""
        memory = self.memory(video.source)
        return self._split(self.key(memory)), self._split(self.value(memory))

    def _finish(self, entered: Tensor, read: Tensor) -> Tensor:
        """From what was read, (..., hidden), to what the last linear layer gets."""
        x = entered + self.dropout(self.out(read))
        x = x + self.dropout(self.mlp(self.norm_mlp(x)))
        normed: Tensor = self.norm_leave(x)
        return normed

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1))

    def _compare(
        self, sentence: Tensor, entered: Tensor, query: Tensor, keys: Tensor, values: Tensor, mask: Tensor, mean: Tensor
    ) -> Tensor:
        """(q, b); the last linear layer is applied to the videos' means instead of to every pair."""
        logits = torch.einsum("qhd,bthd->qbht", query, keys) / query.shape[-1] ** 0.5
        weights = masked_softmax(logits, mask[:, None])
        read = torch.einsum("qbht,bthd->qbhd", weights, values).flatten(2)
        finished = self._finish(entered[:, None], read)
        scaled = mean * self.gamma
        refined = torch.einsum("qbd,bd->qb", finished, scaled @ self.leave.weight) + scaled @ self.leave.bias
        return sentence @ mean.T + refined


def _mean(video: VideoFeatures) -> Tensor:
    return masked_mean(video.frames, video.mask)
