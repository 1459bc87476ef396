"""CLIP towers inside an original checkpoint -> a folder that open_clip loads."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from videoclip.backbone.source import CONFIG, to_config
from videoclip.backbone.transform import UNRECORDED
from videoclip.errors import CheckpointError
from videoclip.files import make_folder, replace_text, replacing

EXPORT_SIZES = ("input_resolution", "context_length", "vocab_size")  # numbers that OpenAI's export carries along
HUGGINGFACE = (
    (r"visual_projection\.weight", "visual.proj"),
    (r"text_projection\.weight", "text_projection"),
    (r"vision_model\.embeddings\.class_embedding", "visual.class_embedding"),
    (r"vision_model\.embeddings\.patch_embedding\.weight", "visual.conv1.weight"),
    (r"vision_model\.embeddings\.position_embedding\.weight", "visual.positional_embedding"),
    (r"vision_model\.pre_layrnorm\.(.+)", r"visual.ln_pre.\1"),
    (r"vision_model\.post_layernorm\.(.+)", r"visual.ln_post.\1"),
    (r"text_model\.embeddings\.token_embedding\.weight", "token_embedding.weight"),
    (r"text_model\.embeddings\.position_embedding\.weight", "positional_embedding"),
    (r"text_model\.final_layer_norm\.(.+)", r"ln_final.\1"),
    (r"vision_model\.encoder\.layers\.(.+)", r"visual.transformer.resblocks.\1"),
    (r"text_model\.encoder\.layers\.(.+)", r"transformer.resblocks.\1"),
)
IN_BLOCKS = (
    ("self_attn.out_proj", "attn.out_proj"),
    ("layer_norm", "ln_"),
    ("mlp.fc1", "mlp.c_fc"),
    ("mlp.fc2", "mlp.c_proj"),
)


def split_towers(state_dict: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Towers under OpenAI's names, in single precision, and the rest of a checkpoint.

    Raises:
        CheckpointError: there are no towers below ``clip.``.
    """
    towers = {n.removeprefix("clip."): t.float() for n, t in state_dict.items() if n.startswith("clip.")}
    rest = {n: t for n, t in state_dict.items() if not n.startswith("clip.")}
    if any(name.startswith("vision_model.") for name in towers):
        towers = from_huggingface(towers)
    if "logit_scale" not in towers or "visual.conv1.weight" not in towers:
        raise CheckpointError(
            "This checkpoint has no CLIP towers: clip.logit_scale or clip.visual.conv1.weight is missing."
        )
    return {n: t.contiguous() for n, t in towers.items() if n not in EXPORT_SIZES}, rest


def from_huggingface(towers: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Names of the transformers library -> OpenAI's: queries, keys and values joined, projections transposed."""
    renamed: dict[str, Tensor] = {}
    for name, tensor in towers.items():
        if name.endswith("position_ids"):
            continue
        ours = next((re.sub(a, b, name) for a, b in HUGGINGFACE if re.fullmatch(a, name)), name)
        for old, new in IN_BLOCKS:
            ours = ours.replace(old, new)
        renamed[ours] = tensor.T if ours in ("visual.proj", "text_projection") else tensor
    for name in [n for n in renamed if ".self_attn.q_proj." in n]:
        kind = name.rsplit(".", 1)[1]
        parts = [renamed.pop(name.replace(".q_proj.", f".{part}_proj.")) for part in "qkv"]
        renamed[name.replace(f"self_attn.q_proj.{kind}", f"attn.in_proj_{kind}")] = torch.cat(parts)
    return renamed


def write_backbone(towers: Mapping[str, Tensor], folder: Path) -> None:
    """Write an open_clip model folder; OpenAI's towers have QuickGELU, 64 channels per head and its own transform.

    The description is written last: without it nothing takes the folder for a model.

    Raises:
        CheckpointError: the towers' shapes are not those of a CLIP.
        StoreError: the folder cannot be written.
    """
    config = to_config(architecture(towers), UNRECORDED)
    make_folder(folder)
    with replacing(folder / "open_clip_model.safetensors") as file:
        file.write(safetensors.torch.save(dict(towers)))
    replace_text(folder / CONFIG, config)


def architecture(towers: Mapping[str, Tensor]) -> dict[str, Any]:
    """open_clip's description of towers under OpenAI's names, read off their shapes."""
    width, _, patch, _ = towers["visual.conv1.weight"].shape
    grid = round((len(towers["visual.positional_embedding"]) - 1) ** 0.5)
    context, text_width = towers["positional_embedding"].shape
    vision = {"image_size": grid * patch, "patch_size": patch, "width": width, "head_width": min(64, width)}
    vision["layers"] = _layers(towers, "visual.transformer.resblocks.")
    text = {"context_length": context, "vocab_size": len(towers["token_embedding.weight"]), "width": text_width}
    text |= {"heads": max(1, text_width // 64), "layers": _layers(towers, "transformer.resblocks.")}
    embed = towers["text_projection"].shape[1]
    return {"embed_dim": embed, "quick_gelu": True, "vision_cfg": vision, "text_cfg": text}


def _layers(towers: Mapping[str, Tensor], prefix: str) -> int:
    return len({name.removeprefix(prefix).split(".")[0] for name in towers if name.startswith(prefix)})
