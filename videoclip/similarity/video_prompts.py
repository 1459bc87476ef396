"""Text prompts that read the video, of Microsoft's X-CLIP (Ni et al., ECCV 2022, arXiv:2208.02816)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from videoclip.features import TextFeatures, VideoFeatures
from videoclip.layers import QuickGELU, mask_bias, masked_mean, unit
from videoclip.similarity import Similarity


class VideoPrompts(Similarity):
    """Each sentence reads the video's patches, a small part of the result is added to it; then cosine with mean frames.

    The patches are those that tuning ``cross_frame`` leaves, with which it equals the authors' code. Without them, as
    from a store, sentences read the frames before the temporal encoder.

    Args:
        width: D.
        layers: cross-attention layers.
        heads: of them.
        dropout: in their MLPs, in training.
        scale: initial share of what was read, one number a channel.
    """

    def __init__(self, width: int, layers: int = 2, heads: int = 8, dropout: float = 0.0, scale: float = 0.1) -> None:
        super().__init__()
        if width % heads:
            raise ValueError(f"heads must divide the width: width {width}, heads {heads}.")
        self.heads = heads
        self.norm = nn.LayerNorm(width)
        self.layers = nn.ModuleList(_Layer(width, heads, dropout) for _ in range(layers))
        self.scale = nn.Parameter(torch.full((width,), scale))

    def score(self, text: TextFeatures, video: VideoFeatures) -> Tensor:
        """Scores (Q, B)."""
        seen, mask = (video.source, video.mask) if video.tokens is None else (video.tokens, None)
        seen = self.norm(seen)
        bias = seen.new_zeros(seen.shape[:2]) if mask is None else mask_bias(mask, seen.dtype)
        read = [part for layer in self.layers for part in layer.keys_and_values(seen)]  # type: ignore[operator]
        numbers = len(self.layers) * (self.heads * seen.shape[1] + 12 * seen.shape[2])
        pooled = unit(masked_mean(video.frames, video.mask))
        return self.in_blocks(self._compare, [text.sentence], [pooled, bias, *read], numbers)

    def prompts(self, sentence: Tensor, bias: Tensor, *read: Tensor) -> Tensor:
        """What is added to each sentence (Q, D) for each video: (Q, B, D).

        Args:
            bias: (B, K) added to the attention to each patch.
            read: keys and values (B, heads, K, D / heads) of each layer.
        """
        x = sentence[:, None].expand(-1, len(bias), -1)
        for number, layer in enumerate(self.layers):
            x = layer(x, bias, *read[2 * number : 2 * number + 2])
        return self.scale * x

    def _compare(self, sentence: Tensor, pooled: Tensor, bias: Tensor, *read: Tensor) -> Tensor:
        guided = unit(sentence[:, None] + self.prompts(sentence, bias, *read))
        return torch.einsum("qbd,bd->qb", guided, pooled)


class _Layer(nn.Module):
    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value = (nn.Linear(width, width, bias=False) for _ in range(3))
        self.out = nn.Linear(width, width)
        self.norm_read, self.norm_mlp = nn.LayerNorm(width), nn.LayerNorm(width)
        self.mlp = nn.Sequential(
            nn.Linear(width, 4 * width), QuickGELU(), nn.Dropout(dropout), nn.Linear(4 * width, width)
        )
        for linear in self.modules():
            if isinstance(linear, nn.Linear):
                nn.init.trunc_normal_(linear.weight, std=0.02)
                if linear.bias is not None:
                    nn.init.zeros_(linear.bias)

    def keys_and_values(self, seen: Tensor) -> tuple[Tensor, Tensor]:
        """Patches (B, K, D) -> (B, heads, K, D / heads) each."""
        key, value = (linear(seen).unflatten(-1, (self.heads, -1)).transpose(1, 2) for linear in (self.key, self.value))
        return key, value

    def forward(self, x: Tensor, bias: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Sentences as each video has changed them (Q, B, D), bias (B, K) -> (Q, B, D)."""
        query = self.query(self.norm_read(x)).unflatten(-1, (self.heads, -1)).permute(1, 2, 0, 3)
        mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=bias[:, None, None])
        x = x + self.out(mixed.permute(2, 0, 1, 3).flatten(-2))
        changed: Tensor = x + self.mlp(self.norm_mlp(x))
        return changed
