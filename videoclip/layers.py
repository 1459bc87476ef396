"""What several temporal encoders and similarities share.

Shapes: B videos, Q texts, T frames, D joint width.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.utils.rnn import PackedSequence

Recurrent = nn.LSTM | nn.GRU | nn.RNN
Steps = TypeVar("Steps", Tensor, PackedSequence)

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

    def forward(self, x: Tensor, bias: Tensor, first: int | None = None) -> Tensor:
        """x (B, T, D), bias (B, 1, 1, T) added to the attention scores of each key -> (B, T, D), or first places."""
        weights, biases = self.in_proj_weight.chunk(3), self.in_proj_bias.chunk(3)
        query, key, value = (
            F.linear(tokens, weight, offset).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for tokens, weight, offset in zip((x[:, :first], x, x), weights, biases, strict=True)
        )
        mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=bias)
        projected: Tensor = self.out_proj(mixed.transpose(1, 2).flatten(-2))
        return projected


class TemporalBlock(nn.Module):
    """CLIP's residual attention block over frames, as the CLIP4Clip family uses it.

    x + attention(ln_1 x), then x + mlp(ln_2 x); the MLP is four times as wide, with QuickGELU. LayerNorm's eps is
    1e-12 there, against CLIP's 1e-5.
    """

    def __init__(self, width: int, heads: int, eps: float = 1e-12) -> None:
        super().__init__()
        self.attn = SelfAttention(width, heads)
        self.ln_1 = nn.LayerNorm(width, eps=eps)
        self.mlp = nn.Sequential()
        self.mlp.add_module("c_fc", nn.Linear(width, 4 * width))
        self.mlp.add_module("gelu", QuickGELU())
        self.mlp.add_module("c_proj", nn.Linear(4 * width, width))
        self.ln_2 = nn.LayerNorm(width, eps=eps)

    def forward(self, x: Tensor, bias: Tensor, first: int | None = None) -> Tensor:
        """x (B, T, D), bias (B, 1, 1, T) -> (B, T, D), or the first places alone."""
        x = x[:, :first] + self.attn(self.ln_1(x), bias, first)
        mixed: Tensor = x + self.mlp(self.ln_2(x))
        return mixed


class TemporalTransformer(nn.Module):
    """A stack of temporal blocks under a key mask.

    Args:
        width: D.
        layers: number of blocks.
        heads: attention heads; CLIP's rule, width / 64 and at least 1, when not given.
        eps: of the LayerNorms.
    """

    def __init__(self, width: int, layers: int, heads: int | None = None, eps: float = 1e-12) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(TemporalBlock(width, heads or max(1, width // 64), eps) for _ in range(layers))

    def forward(self, x: Tensor, mask: Tensor, first: int | None = None) -> Tensor:
        """x (B, T, D), mask (B, T) bool -> (B, T, D); values at masked places are unused and undefined.

        With ``first``, only so many places leave the last block, which is spared the work of the others.
        """
        bias = mask_bias(mask, x.dtype)[:, None, None]
        for number, block in enumerate(self.blocks, 1):
            x = block(x, bias, first if number == len(self.blocks) else None)
        return x[:, :first]


class Positions(nn.Embedding):
    """A learned vector for each place in a sequence, stretched over clips that are longer than the table.

    A clip whose last real frame lies beyond the table reads it at evenly spaced places between its first and its last
    row, by linear interpolation; how, depends on that clip alone, whatever padding follows.
    """

    def forward(self, mask: Tensor) -> Tensor:
        """mask (B, T) bool -> (B, T, D), or (1, T, D) where no clip of the batch is too long."""
        places = torch.arange(mask.shape[1], device=mask.device)
        if len(places) <= self.num_embeddings:
            return super().forward(places)[None]
        last = self.num_embeddings - 1
        stretch = (last / (mask * places).amax(1).clamp(min=1)).clamp(max=1)
        place = (places * stretch[:, None]).clamp(max=last)
        share = (place - place.floor())[..., None].to(self.weight.dtype)
        below, above = super().forward(place.floor().long()), super().forward(place.ceil().long())
        return below * (1 - share) + above * share


def start_from_text_tower(clip: Mapping[str, Tensor], table: nn.Embedding, *transformers: TemporalTransformer) -> None:
    """Copy CLIP's text positions and the first text blocks over a module's, as the CLIP4Clip family starts.

    Where the tower is of another width nothing is copied; blocks and rows that it lacks keep their values.

    Args:
        clip: parameters under OpenAI's names: ``positional_embedding``, ``transformer.resblocks.0.ln_1.weight``, ...
        table: gets the first rows of the text positions.
        transformers: each one's block i gets text block i.
    """
    rows = clip.get("positional_embedding")
    if rows is None or rows.shape[-1] != table.embedding_dim:
        return
    count = min(len(rows), len(table.weight))
    table.weight.data[:count] = rows[:count]
    blocks: dict[int, dict[str, Tensor]] = {}
    for name, tensor in clip.items():
        if found := re.fullmatch(r"transformer\.resblocks\.(\d+)\.(.+)", name):
            blocks.setdefault(int(found[1]), {})[found[2]] = tensor
    for transformer in transformers:
        for index, block in enumerate(transformer.blocks):
            if blocks.get(index, {}).keys() == block.state_dict().keys():
                block.load_state_dict(blocks[index])


def encoder_stack(width: int, layers: int, heads: int, feedforward: int, dropout: float) -> nn.TransformerEncoder:
    """torch's standard encoder (LayerNorm after each residual, ReLU), batch first, with a final LayerNorm."""
    layer = nn.TransformerEncoderLayer(width, heads, feedforward, dropout, batch_first=True)
    return nn.TransformerEncoder(layer, layers, nn.LayerNorm(width), enable_nested_tensor=False)


def recur(network: Recurrent, steps: Steps, parameters: Mapping[str, Tensor] | None = None) -> Steps:
    """Return the outputs of a recurrent network, in float32 inside where the hardware lacks its kernel.

    A processor without AVX-512 has none for an LSTM in bfloat16 or float16. Every recurrent network of this package
    runs through here.

    Args:
        network: built with ``batch_first``.
        steps: inputs (B, T, D), or packed ones.
        parameters: values to take the place of the network's own, by their names there.

    Returns:
        The output of every step, packed as ``steps`` are and of their dtype.
    """
    device, dtype = steps.data.device.type, steps.data.dtype
    mixed = torch.is_autocast_enabled(device)
    precision = torch.get_autocast_dtype(device) if mixed else dtype
    kind = type(network)
    if precision.itemsize >= 4 or has_kernel(kind, device, precision, mixed):  # type: ignore[arg-type] # it is hashable
        states = functional_call(network, dict(parameters or {}), (steps,))[0]
    else:
        whole = {name: p.float() for name, p in (parameters or dict(network.named_parameters())).items()}
        with torch.autocast(device, enabled=False):
            states = functional_call(network, whole, (steps.to(torch.float32),))[0]

    outputs: Steps = states.to(dtype)
    return outputs


@functools.cache
def has_kernel(network: type[Recurrent], device: str, dtype: torch.dtype, mixed: bool) -> bool:
    """Try whether this machine trains a kind of recurrent network in a precision.

    Args:
        network: ``nn.LSTM``, ``nn.GRU`` or ``nn.RNN``.
        device: type of the device.
        dtype: reduced precision.
        mixed: float32 under autocast to it, rather than weights and inputs of that dtype.
    """
    own = torch.float32 if mixed else dtype
    with torch.inference_mode(False), torch.random.fork_rng(devices=[]):  # initial values draw random numbers
        trial = network(8, 8, batch_first=True).to(device, own)
    with torch.inference_mode(False), torch.enable_grad(), torch.autocast(device, dtype, enabled=mixed):
        try:
            trial(torch.zeros(1, 2, 8, device=device, dtype=own))[0].sum().backward()
        except RuntimeError:
            return False
    return True


def initialise(module: nn.Module) -> None:
    """CLIP4Clip's initial values: weights of Linear and Embedding from N(0, 0.02), biases zero."""
    for part in module.modules():
        if isinstance(part, nn.Linear | nn.Embedding):
            nn.init.normal_(part.weight, std=0.02)
        if isinstance(part, nn.Linear) and part.bias is not None:
            nn.init.zeros_(part.bias)


def mask_bias(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """To be added to logits before a softmax: 0 where mask (any shape) is True, a large negative number elsewhere."""
    floor = max(MASKED, torch.finfo(dtype).min)
    return torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill(~mask, floor)


def hidden_keys(mask: Tensor) -> Tensor:
    """mask (B, T) -> (B, T), True for the keys that torch's attention leaves out; where none is real it keeps all."""
    return ~mask & mask.any(1, keepdim=True)


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


def cosine_of_sum(weights: Tensor, products: Tensor, gram: Tensor) -> Tensor:
    """Cosine of each text with a weighted sum of frames, without building the sums (Q, B, D).

    With weights w, the sum z = sum w_t v_t has z.t = sum w_t (v_t.t) and |z|^2 = w G w.

    Args:
        weights: (Q, B, T).
        products: (Q, B, T) of the texts, of unit length, with the frames.
        gram: (B, T, T) products of the frames of each video.

    Returns:
        (Q, B).
    """
    squared = (torch.einsum("qbt,btu->qbu", weights, gram) * weights).sum(-1)
    return (weights * products).sum(-1) * squared.clamp(min=1e-12).rsqrt()


def unit(x: Tensor) -> Tensor:
    """x (..., D) scaled to unit length; zeros stay zeros, in half precision too."""
    return F.normalize(x, dim=-1, eps=max(1e-12, torch.finfo(x.dtype).tiny))


def cosines(sentence: Tensor, frames: Tensor) -> Tensor:
    """Cosine of every sentence (Q, D) with every frame (B, T, D) -> (Q, B, T)."""
    return torch.einsum("qd,btd->qbt", unit(sentence), unit(frames))


def gathered(frames: Tensor, order: Tensor) -> Tensor:
    """frames (B, T, D) in another order (B, T)."""
    return frames.gather(1, order[..., None].expand_as(frames))


def scattered(frames: Tensor, order: Tensor) -> Tensor:
    """The inverse of ``gathered``: frames (B, T, D) back to where they came from."""
    return torch.zeros_like(frames).scatter(1, order[..., None].expand_as(frames), frames)
