"""Low-rank adaptation of attention (Hu et al., 2022, arXiv:2106.09685), in the form of CLIP-LoRA (arXiv:2405.18541)."""

from collections.abc import Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from videoclip.backbone.walk import Tower
from videoclip.errors import ConfigError
from videoclip.tuning import Tuning


class Lora(Tuning):
    """Queries, keys and values of every block get a low-rank change, each its own, by the package ``peft``.

    Equal to the authors' code: the change is scaled by alpha over the root of the rank. Each block's fused projection
    is split into three linear layers that peft wraps; ``merge`` adds the changes to the fused one.

    Args:
        tower: either one.
        rank: of the change.
        alpha: its scale, before division by the root of the rank.
        dropout: on the input of the change, drawn for each of them.
        parts: which projections are changed; ``out`` is the one after attention.
    """

    walks = False
    mergeable = True

    def __init__(
        self,
        tower: Tower,
        rank: int = 2,
        alpha: float = 1.0,
        dropout: float = 0.25,
        parts: Sequence[Literal["query", "key", "value", "out"]] = ("query", "key", "value"),
    ) -> None:
        super().__init__(tower)
        tower.check("Lora")
        try:
            from peft import LoraConfig, inject_adapter_in_model
        except ImportError as error:
            raise ConfigError("lora", ["needs the package peft: pip install 'videoclip[lora]'"]) from error
        options: dict[str, Any] = {"r": rank, "lora_alpha": alpha, "lora_dropout": dropout, "use_rslora": True}
        config = LoraConfig(target_modules=list(parts), **options)
        for block in tower.blocks:
            split = _SplitAttention(block.attn)  # type: ignore[arg-type]
            inject_adapter_in_model(config, split)
            block.attn = split

    @torch.no_grad()
    def merge(self) -> None:
        """Add the changes to the projections and put the fused attention back."""
        for block in self.tower.blocks:
            block.attn = block.attn.fused()  # type: ignore[union-attr, operator]


class _SplitAttention(nn.MultiheadAttention):
    """Multi-head attention with a linear layer for each projection; called like the one it replaces."""

    def __init__(self, attention: nn.MultiheadAttention) -> None:
        nn.Module.__init__(self)
        self.num_heads = attention.num_heads
        width = attention.embed_dim
        weights, biases = attention.in_proj_weight.chunk(3), attention.in_proj_bias.chunk(3)
        for name, weight, bias in zip(("query", "key", "value"), weights, biases, strict=True):
            linear = nn.Linear(width, width)
            linear.load_state_dict({"weight": weight, "bias": bias})
            setattr(self, name, linear.requires_grad_(False).to(weight.device))
        self.out = attention.out_proj

    def forward(  # type: ignore[override]
        self, query: Tensor, key: Tensor, value: Tensor, need_weights: bool = False, attn_mask: Tensor | None = None
    ) -> tuple[Tensor, None]:
        """(B, N, W) each -> (B, N, W)."""
        inputs = (("query", query), ("key", key), ("value", value))
        read, found, given = (
            getattr(self, name)(x).unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for name, x in inputs
        )
        mixed = F.scaled_dot_product_attention(read, found, given, attn_mask=attn_mask)
        return self.out(mixed.transpose(1, 2).flatten(-2)), None

    def fused(self) -> nn.MultiheadAttention:
        """The attention that computes the same with one projection for query, key and value."""
        plain = [_merged(getattr(self, name)) for name in ("query", "key", "value", "out")]
        width = plain[0].in_features
        with torch.device(plain[0].weight.device):
            attention = nn.MultiheadAttention(width, self.num_heads, batch_first=True)
        attention.in_proj_weight.copy_(torch.cat([linear.weight for linear in plain[:3]]))
        attention.in_proj_bias.copy_(torch.cat([linear.bias for linear in plain[:3]]))
        attention.out_proj.load_state_dict(plain[3].state_dict())
        return attention


def _merged(layer: Any) -> nn.Linear:
    """A linear layer with the change of its wrapper, if it has one, added."""
    if isinstance(layer, nn.Linear):
        return layer
    layer.merge()
    plain: nn.Linear = layer.base_layer
    return plain
