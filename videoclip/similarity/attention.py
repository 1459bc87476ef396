"""X-Pool's text-conditioned attention over frames (Gorti et al., CVPR 2022, arXiv:2203.15086)."""

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from videoclip.features import TextFeatures, VideoFeatures
from videoclip.layers import masked_softmax, unit
from videoclip.similarity import Similarity


class Attention(Similarity):
    """The sentence attends to the frames; what it reads passes a small residual network and is compared with it.

    Equal to the authors' code, but for padded frames, of which it knows none. Without dropout the pooled videos
    (Q, B, D) are never built: all that follows the attention weights is linear in them up to LayerNorms, so that every
    mean, variance and product is a form of the weights with small matrices of the video's frames.

    Args:
        width: D.
        heads: attention heads.
        dropout: while training, on the residual branch.
    """

    def __init__(self, width: int, heads: int = 1, dropout: float = 0.3) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value, self.out, self.residual = (nn.Linear(width, width) for _ in range(5))
        self.norm_in, self.norm_read, self.norm_out = (nn.LayerNorm(width) for _ in range(3))
        self.dropout = nn.Dropout(dropout)
        for linear in (self.query, self.key, self.value, self.out, self.residual):
            nn.init.eye_(linear.weight)
            nn.init.zeros_(linear.bias)

    def score(self, text: TextFeatures, video: VideoFeatures) -> Tensor:
        """(Q, B)."""
        if self.training and self.dropout.p:
            numbers = 8 * text.sentence.shape[1]
            return self.in_blocks(self._compare_pooled, (text.sentence,), (video.frames, video.mask), numbers)
        queries = self._split(self.query(self.norm_in(text.sentence)))
        keys = self._split(self.key(self.norm_in(video.frames)))
        through = torch.eye(len(self.out.weight)).to(self.out.weight) + self.residual.weight
        constant = through @ self.norm_read.bias + self.residual.bias  # what biases give to every pooled vector
        constant = constant - constant.mean()
        parts = (unit(text.sentence), queries), (keys, video.mask, *self._forms(video.frames, through, constant))
        compare = partial(self._compare, constant)
        return self.in_blocks(compare, *parts, 8 * self.heads * video.frames.shape[1])

    def weigh(self, text: TextFeatures, video: VideoFeatures) -> Tensor:
        """(Q, B, T), the mean over heads."""
        queries = self._split(self.query(self.norm_in(text.sentence)))
        return self._weights(queries, self._split(self.key(self.norm_in(video.frames))), video.mask).mean(-1)

    def pool_by_text(self, sentence: Tensor, frames: Tensor, mask: Tensor) -> Tensor:
        """Each video as each text sees it, the direct form: (Q, D), (B, T, D), (B, T) -> (Q, B, D)."""
        normed = self.norm_in(frames)
        weights = self._weights(self._split(self.query(self.norm_in(sentence))), self._split(self.key(normed)), mask)
        read = torch.einsum("qbth,bthd->qbhd", weights, self._split(self.value(normed))).flatten(2)
        read = self.norm_read(self.out(read))
        pooled: Tensor = self.norm_out(read + self.dropout(self.residual(read)))
        return pooled

    def _split(self, x: Tensor) -> Tensor:
        """(..., D) -> (..., heads, D / heads)."""
        return x.unflatten(-1, (self.heads, -1))

    def _weights(self, queries: Tensor, keys: Tensor, mask: Tensor) -> Tensor:
        """(Q, heads, d), (B, T, heads, d) -> (Q, B, T, heads), summing to 1 over T."""
        logits = torch.einsum("qhd,bthd->qbht", queries, keys) / queries.shape[-1] ** 0.5
        return masked_softmax(logits, mask[:, None]).transpose(2, 3)

    def _compare_pooled(self, sentence: Tensor, frames: Tensor, mask: Tensor) -> Tensor:
        pooled = unit(self.pool_by_text(sentence, frames, mask))
        return torch.einsum("qd,qbd->qb", unit(sentence), pooled)

    def _forms(self, frames: Tensor, through: Tensor, constant: Tensor) -> tuple[Tensor, ...]:
        """What the videos alone give to ``_compare``; N is T x heads.

        What is read, minus its mean over channels, is the sum of w_n u_n, with u the centred values after ``out``. The
        pooled vector before its last LayerNorm, centred too, is the sum of w_n y_n / deviation, plus ``constant``: y
        are the u behind the first LayerNorm's weights and ``through``, the residual branch with its identity. Products
        of the u give the first variance, those of y and constant the second, and, scaled by the last LayerNorm's
        weights, the length.
        """
        values = self._split(self.value(self.norm_in(frames)))
        out = self._split(self.out.weight)  # (D, heads, d)
        read = torch.einsum("bthd,ehd->bthe", values, out).flatten(1, 2) + self.out.bias / self.heads
        read = read - read.mean(-1, keepdim=True)
        inner = F.linear(read * self.norm_read.weight, through)
        inner = inner - inner.mean(-1, keepdim=True)
        scaled, offset = inner * self.norm_out.weight, constant * self.norm_out.weight
        width = read.shape[-1]
        return (
            _gram(read) / width,
            _gram(inner) / width,
            inner @ constant / width,
            scaled,
            _gram(scaled),
            scaled @ offset,
            scaled @ self.norm_out.bias,
        )

    def _compare(
        self, constant: Tensor, sentence: Tensor, queries: Tensor, keys: Tensor, mask: Tensor, *forms: Tensor
    ) -> Tensor:
        """(q, b) from c (D,), (q, D) of unit length, (q, heads, d), (b, T, heads, d), (b, T) and ``_forms``."""
        read_gram, inner_gram, inner_constant, scaled, scaled_gram, scaled_offset, scaled_bias = forms
        weights = self._weights(queries, keys, mask).flatten(2)
        bias, offset = self.norm_out.bias, constant * self.norm_out.weight
        read = weights * (_quadratic(weights, read_gram) + self.norm_read.eps).rsqrt()[..., None]
        fixed = constant.square().mean()
        variance = _quadratic(read, inner_gram) + 2 * _linear(read, inner_constant) + fixed
        shrink = (variance + self.norm_out.eps).rsqrt()
        along = (torch.einsum("qd,bnd->qbn", sentence, scaled) * read).sum(-1) + (sentence @ offset)[:, None]
        squared = _quadratic(read, scaled_gram) + 2 * _linear(read, scaled_offset) + offset @ offset
        across = _linear(read, scaled_bias) + offset @ bias
        length = shrink.square() * squared + 2 * shrink * across + bias @ bias
        return (shrink * along + (sentence @ bias)[:, None]) * length.clamp(min=1e-12).rsqrt()


def _gram(x: Tensor) -> Tensor:
    return x @ x.transpose(1, 2)


def _quadratic(weights: Tensor, gram: Tensor) -> Tensor:
    """w G w: (q, b, N), (b, N, N) -> (q, b)."""
    return (torch.einsum("qbn,bnm->qbm", weights, gram) * weights).sum(-1)


def _linear(weights: Tensor, vector: Tensor) -> Tensor:
    """w v: (q, b, N), (b, N) -> (q, b)."""
    return torch.einsum("qbn,bn->qb", weights, vector)
