"""What several temporal encoders and similarities share.

Shapes: B videos, Q texts, T frames, D joint width.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

MASKED = -1e6  # the CLIP4Clip family's additive key mask; finite, so a row without any real key stays finite


class QuickGELU(nn.Module):
    """x * sigmoid(1.702 x), the activation of OpenAI's CLIP."""

    def forward(self, x: Tensor) -> Tensor:
        """Any shape."""
        return x * torch.sigmoid(1.702 * x)


class SelfAttention(nn.Module):
    """Multi-head self-attention with a key mask; parameters are named as in ``torch.nn.MultiheadAttention``."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        if width % heads:
            raise ValueError(f"heads must divide the width: width {width}, heads {heads}.")
        self.heads = heads
        self.in_proj_weight = nn.Parameter(torch.empty(3 * width, width))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * width))
        self.out_proj = nn.Linear(width, width)
        nn.init.normal_(self.in_proj_weight, std=0.02)

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        """x (B, T, D), bias (B, 1, 1, T) added to the attention scores of each key -> (B, T, D)."""
        query, key, value = (
            part.unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for part in F.linear(x, self.in_proj_weight, self.in_proj_bias).chunk(3, -1)
        )
        mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=bias)
        projected: Tensor = self.out_proj(mixed.transpose(1, 2).flatten(-2))
        return projected


class TemporalBlock(nn.Module):
    """CLIP's residual attention block over frames, as the CLIP4Clip family uses it.

    x + attention(ln_1 x), then x + mlp(ln_2 x); the MLP is four times as wide, with QuickGELU. LayerNorm's eps is
    1e-12 there, against CLIP's 1e-5.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.attn = SelfAttention(width, heads)
        self.ln_1 = nn.LayerNorm(width, eps=1e-12)
        self.mlp = nn.Sequential()
        self.mlp.add_module("c_fc", nn.Linear(width, 4 * width))
        self.mlp.add_module("gelu", QuickGELU())
        self.mlp.add_module("c_proj", nn.Linear(4 * width, width))
        self.ln_2 = nn.LayerNorm(width, eps=1e-12)

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        """x (B, T, D), bias (B, 1, 1, T) -> (B, T, D)."""
        x = x + self.attn(self.ln_1(x), bias)
        mixed: Tensor = x + self.mlp(self.ln_2(x))
        return mixed


class TemporalTransformer(nn.Module):
    """A stack of temporal blocks under a key mask.

    Args:
        width: D.
        layers: number of blocks.
        heads: attention heads; CLIP's rule, width / 64 and at least 1, when not given.
    """

    def __init__(self, width: int, layers: int, heads: int | None = None) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(TemporalBlock(width, heads or max(1, width // 64)) for _ in range(layers))

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """x (B, T, D), mask (B, T) bool -> (B, T, D); values at masked places are unused and undefined."""
        bias = key_bias(mask, x.dtype)
        for block in self.blocks:
            x = block(x, bias)
        return x


def initialise(module: nn.Module) -> None:
    """CLIP4Clip's initial values: weights of Linear and Embedding from N(0, 0.02), biases zero."""
    for part in module.modules():
        if isinstance(part, nn.Linear | nn.Embedding):
            nn.init.normal_(part.weight, std=0.02)
        if isinstance(part, nn.Linear) and part.bias is not None:
            nn.init.zeros_(part.bias)


def key_bias(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """mask (B, T) bool -> (B, 1, 1, T), 0 for real keys and a large negative number for the others."""
    floor = max(MASKED, torch.finfo(dtype).min)
    return torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill(~mask, floor)[:, None, None]


def masked_mean(x: Tensor, mask: Tensor) -> Tensor:
    """Mean over T of x (B, T, D) where mask (B, T) is True -> (B, D); zeros where no frame is real."""
    total = torch.where(mask[..., None], x, x.new_zeros(())).sum(1)
    return total / mask.sum(1, keepdim=True).clamp(min=1).to(x.dtype)


def masked_softmax(x: Tensor, mask: Tensor) -> Tensor:
    """Softmax over the last axis of x (..., T) with zero weight where mask (..., T), broadcast, is False.

    A row without any real place gets zero weights rather than NaN.
    """
    weights = x.masked_fill(~mask, torch.finfo(x.dtype).min).softmax(-1)
    return weights.masked_fill(~mask, 0)


def cosines(sentence: Tensor, frames: Tensor) -> Tensor:
    """Cosine of every sentence (Q, D) with every frame (B, T, D) -> (Q, B, T)."""
    joint = F.normalize(sentence, dim=-1) @ F.normalize(frames, dim=-1).flatten(0, 1).T
    return joint.unflatten(1, frames.shape[:2])


def check_positions(frames: Tensor, table: nn.Embedding) -> None:
    """Refuse clips (B, T, D) that are longer than a table of positions."""
    if frames.shape[1] > table.num_embeddings:
        raise ValueError(
            f"The clip has {frames.shape[1]} frames but max_positions is {table.num_embeddings}; "
            "use fewer frames or build the module with a larger max_positions."
        )
