"""open_clip models with given weights."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import open_clip
import torch
from safetensors.torch import save_file
from torch import Tensor

from videoclip.backbone.openclip import OpenClip


def backbone_of(folder: Path, towers: Mapping[str, Tensor], heads: int, text_heads: int = 1) -> OpenClip:
    """An open_clip model with these weights, under OpenAI's names; a text tower that is not there is made up."""
    towers = {"logit_scale": torch.zeros(()), **towers}
    width, _, patch, _ = towers["visual.conv1.weight"].shape
    towers.setdefault("visual.proj", torch.eye(width))
    for norm in ("ln_pre", "ln_post"):
        towers.setdefault(f"visual.{norm}.weight", torch.ones(width))
        towers.setdefault(f"visual.{norm}.bias", torch.zeros(width))
    rows = len(towers["visual.positional_embedding"]) - 1
    vision = {"image_size": round(rows**0.5) * int(patch), "patch_size": int(patch), "width": int(width)}
    vision |= {"layers": layers(towers, "visual.transformer"), "head_width": int(width) // heads}
    text = {"context_length": 8, "vocab_size": 20, "width": 8, "layers": 1, "heads": 1}
    if "transformer.resblocks.0.ln_1.weight" in towers:
        context, text_width = towers["positional_embedding"].shape
        text = {"context_length": context, "width": text_width, "heads": text_heads}
        text |= {"vocab_size": len(towers["token_embedding.weight"]), "layers": layers(towers, "transformer")}
    config = {"embed_dim": towers["visual.proj"].shape[1], "quick_gelu": True, "vision_cfg": vision, "text_cfg": text}
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": config, "preprocess_cfg": {}}))
    made = open_clip.model.CLIP(**config).state_dict()
    full = {**made, **{n: t.reshape(made[n].shape) for n, t in towers.items()}}
    save_file({n: t.detach().contiguous().clone() for n, t in full.items()}, folder / "open_clip_model.safetensors")
    return OpenClip(str(folder))


def layers(towers: Mapping[str, Tensor], prefix: str) -> int:
    names = {
        n.removeprefix(f"{prefix}.resblocks.").split(".")[0] for n in towers if n.startswith(f"{prefix}.resblocks.")
    }
    return len(names)
