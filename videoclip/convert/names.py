"""Names and shapes of original checkpoints, as far as several systems share them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from videoclip.convert.systems import Renames, Weights, ours_of
from videoclip.convert.towers import from_huggingface


def openai_names(tower: Weights) -> dict[str, Tensor]:
    """An image tower of the transformers library, without the usual prefixes -> OpenAI's names."""
    long = {
        "class_embedding": "vision_model.embeddings.class_embedding",
        "patch_embedding.weight": "vision_model.embeddings.patch_embedding.weight",
        "position_embedding.weight": "vision_model.embeddings.position_embedding.weight",
        "positional_embedding": "visual.positional_embedding",
    }
    full = {}
    for name, tensor in tower.items():
        place = long.get(name, name)
        if name.startswith("layers."):
            place = f"vision_model.encoder.{name}"
        elif name.startswith(("pre_layrnorm", "post_layernorm")):
            place = f"vision_model.{name}"
        full[place] = tensor
    return from_huggingface(full)


def adapters(weights: Weights, first: str) -> tuple[list[tuple[int, str]], dict[str, Any]]:
    """Where adapters are, as block and place, and the options that say so."""
    pattern = rf"(?:.*\.)?transformer\.resblocks\.(\d+)\.adapter_pre_(attn|mlp)\.{first}\.weight"
    found = [match for name in weights if (match := re.fullmatch(pattern, name))]
    if not found:
        raise KeyError("adapters")
    places = sorted({(int(match[1]), match[2]) for match in found})
    kinds = {"attn": "attention", "mlp": "mlp"}
    hidden = len(weights[found[0][0]])
    blocks = len({block for block, _ in places})
    return places, {"hidden": hidden, "blocks": blocks, "places": sorted({kinds[kind] for _, kind in places})}


def of_adapters(weights: Weights, places: list[tuple[int, str]], parts: Mapping[str, str]) -> dict[str, Tensor]:
    """The adapters' weights under our names: ``parts`` of an adapter by their original names."""
    first, found = min(block for block, _ in places), {}
    for block, kind in places:
        prefix = f"transformer.resblocks.{block}.adapter_pre_{kind}."
        ours = f"image_tuning.0.{'attention' if kind == 'attn' else 'mlp'}.{block - first}."
        for name, tensor in weights.items():
            for old, new in parts.items():
                if name.endswith(f"{prefix}{old}.weight") or name.endswith(f"{prefix}{old}.bias"):
                    found[f"{ours}{new}.{name.rsplit('.', 1)[1]}"] = tensor
    return found


def translated(weights: Weights, renames: Renames) -> dict[str, Tensor]:
    """What has a place here, under our names."""
    pairs = ((ours_of(name, renames), tensor) for name, tensor in weights.items())
    return {name: tensor for name, tensor in pairs if name is not None}


def fused_attention(weights: Weights, prefix: str, ours: str) -> dict[str, Tensor]:
    """Split projections -> torch's fused ones."""
    found = {
        f"{ours}in_proj_{kind}": torch.cat([weights[f"{prefix}{part}_proj.{kind}"] for part in "qkv"])
        for kind in ("weight", "bias")
    }
    return {**found, **linear(weights, f"{prefix}out_proj", f"{ours}out_proj")}


def linear(weights: Weights, prefix: str, ours: str) -> dict[str, Tensor]:
    """Weight and bias of a layer under our name."""
    return {f"{ours}.{kind}": weights[f"{prefix}.{kind}"] for kind in ("weight", "bias")}
