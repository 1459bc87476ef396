"""Checkpoints of systems that tune CLIP's towers: which tunings they hold, and how their names become ours.

Each function takes a state dict under the original names and gives a ``Tuned``; shapes tell the options.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from videoclip.convert.names import (
    adapters,
    fused_attention,
    linear,
    of_adapters,
    openai_names,
    translated,
)
from videoclip.convert.systems import Renames, Weights, count, ours_of
from videoclip.convert.systems import ts2net as ts2net_head
from videoclip.convert.systems import xclip_videox as xclip_videox_head

Options = dict[str, Any]
VISUAL = r"(?:conv1|class_embedding|positional_embedding|ln_pre|ln_post|proj|transformer)(?:\..+)?"


@dataclass(frozen=True)
class Tuned:
    """A system's tunings and weights.

    Attributes:
        towers: weights of the towers that the checkpoint has, under OpenAI's names.
        weights: everything else that has a place here, under our names.
        image_tuning, text_tuning, temporal, similarity: components by name, with options.
        left_over: original names for which there is no place.
    """

    towers: dict[str, Tensor]
    weights: dict[str, Tensor]
    image_tuning: list[Options]
    text_tuning: list[Options]
    left_over: list[str]
    temporal: Options = field(default_factory=lambda: {"name": "none"})
    similarity: Options = field(default_factory=lambda: {"name": "mean"})


def vop(weights: Weights) -> Tuned:
    """The basic form; how many of the text prompts are a prefix is not told by the weights: half of them."""
    renames = (
        (r"visual_prompt_learner\.visual_prompts", "image_tuning.0.shared"),
        (r"text_prompt_learner\.text_prompts", "text_tuning.0.prompts"),
    )
    found = translated(weights, renames)
    found["image_tuning.0.shared"] = found["image_tuning.0.shared"][:, 0]
    prompts = found["text_tuning.0.prompts"].shape[1]
    half = prompts // 2
    return _tuned(
        weights,
        found,
        r"clip\.(.+)",
        [{"name": "vop", "tokens": found["image_tuning.0.shared"].shape[1]}],
        [{"name": "vop_text", "prefix": prompts - half, "suffix": half, "place": "original"}],
        unused=r"(?:image|text)_encoder\..+|visual_prompt_learner\..+|text_prompt_learner\..+",
    )


def vificlip(weights: Weights) -> Tuned:
    """Full fine-tuning, or prompts of both towers on it; class texts are left to whoever asks."""
    towers = {
        re.sub(r"^text_encoder\.", "", re.sub("^image_encoder", "visual", name)): tensor
        for name, tensor in weights.items()
        if re.match(r"(image|text)_encoder\.", name) and "VPT" not in name
    }
    found: dict[str, Tensor] = {"logit_scale": weights["logit_scale"]} if "logit_scale" in weights else {}
    image: list[Options] = [{"name": "full"}]
    text: list[Options] = [{"name": "full"}]
    if "prompt_learner.ctx" in weights:
        for place, first, prefix, tunings in (
            ("image_tuning.1", "image_encoder.VPT", "image_encoder.transformer", image),
            ("text_tuning.1", "prompt_learner.ctx", "text_encoder.transformer", text),
        ):
            prompts = [weights[first]]
            while (name := f"{prefix}.resblocks.{len(prompts)}.VPT_shallow") in weights:
                prompts.append(weights[name])
            found[f"{place}.prompts"] = torch.stack(prompts)
            tunings.append({"name": "vifi", "tokens": len(prompts[0]), "depth": len(prompts)})
    used = r"(?:image|text)_encoder\..+|prompt_learner\..+|logit_scale"
    left = [name for name in weights if not re.fullmatch(used, name)]
    similarity = {"name": "mean", "normalize_frames": False}
    return Tuned(towers, found, image, text, left, similarity=similarity)


def stan(weights: Weights) -> Tuned:
    """The branch with attention over time, beside towers under the names of the transformers library."""
    towers = openai_names({n: t for n, t in weights.items() if not n.startswith("STAN_")})
    depth = count(weights, "STAN_S_layers.")
    found = {"image_tuning.1.positions.weight": weights["STAN_time_embed.weight"]}
    for layer in range(depth):
        space = {n.removeprefix("STAN_S_"): t for n, t in weights.items() if n.startswith(f"STAN_S_layers.{layer}.")}
        for name, tensor in openai_names(space).items():
            part = name.removeprefix(f"visual.transformer.resblocks.{layer}.")
            found[f"image_tuning.1.space.{layer}.{part}"] = tensor
        prefix, ours = f"STAN_T_layers.{layer}.", f"image_tuning.1.time.{layer}."
        found |= fused_attention(weights, f"{prefix}self_attn.", f"{ours}attention.")
        for old, new in (("layer_norm1", "norm"), ("temporal_fc", "out")):
            found |= linear(weights, prefix + old, ours + new)
    branch = {"name": "stan", "depth": depth, "frames": len(weights["STAN_time_embed.weight"])}
    similarity = {"name": "mean", "normalize_frames": False}
    return Tuned(towers, found, [{"name": "full"}, branch], [{"name": "full"}], [], similarity=similarity)


def xclip_videox(weights: Weights) -> Tuned:
    """Microsoft's X-CLIP as a whole: messages, integration, and prompts that read the video."""
    messages = r"visual\.transformer\.resblocks\.(\d+)\.message_"
    decoder = r"prompts_generator\.decoder\.(\d+)\."
    renames: Renames = (
        (rf"{messages}fc\.(.+)", r"image_tuning.1.messages.\1.make.\2"),
        (rf"{messages}ln\.(.+)", r"image_tuning.1.messages.\1.norm.\2"),
        (rf"{messages}attn\.(.+)", r"image_tuning.1.messages.\1.attention.\2"),
        (r"prompts_visual_ln\.(.+)", r"image_tuning.1.norm.\1"),
        (r"prompts_visual_proj", "image_tuning.1.projection"),
        (r"prompts_generator\.alpha", "similarity.scale"),
        (r"prompts_generator\.norm\.(.+)", r"similarity.norm.\1"),
        (rf"{decoder}cross_attn\.q_proj\.(.+)", r"similarity.layers.\1.query.\2"),
        (rf"{decoder}cross_attn\.k_proj\.(.+)", r"similarity.layers.\1.key.\2"),
        (rf"{decoder}cross_attn\.v_proj\.(.+)", r"similarity.layers.\1.value.\2"),
        (rf"{decoder}cross_attn\.proj\.(.+)", r"similarity.layers.\1.out.\2"),
        (rf"{decoder}norm1\.(.+)", r"similarity.layers.\1.norm_read.\2"),
        (rf"{decoder}norm3\.(.+)", r"similarity.layers.\1.norm_mlp.\2"),
        (rf"{decoder}mlp\.(.+)", r"similarity.layers.\1.mlp.\2"),
    )
    head = xclip_videox_head(weights)
    of_head = {n: t for n, t in weights.items() if head.ours(n) is not None}
    found = {**translated(weights, renames), **head.translate(of_head)[0]}
    rest = {n: t for n, t in weights.items() if n not in of_head and ours_of(n, renames) is None}
    return _tuned(
        rest,
        found,
        r"(.+)",
        [{"name": "full"}, {"name": "cross_frame"}],
        [{"name": "none"}],
        temporal={"name": head.temporal[0], **head.temporal[1]},
        similarity={"name": "video_prompts", "layers": count(weights, "prompts_generator.decoder.")},
    )


def st_adapter(weights: Weights) -> Tuned:
    """Adapters of the image tower; the classifier has no place here."""
    places, options = adapters(weights, "fc1")
    options["kernel"] = list(next(t for n, t in weights.items() if n.endswith(".conv.weight")).shape[2:])
    found = of_adapters(weights, places, {"fc1": "down", "conv": "conv", "fc2": "up"})
    return _image_only(weights, found, {"name": "st_adapter", **options}, r".+adapter_.+|fc\..+")


def m2clip(weights: Weights) -> Tuned:
    """Adapters of both towers; the heads, and the text tower's last block, which serves one of them, have no place."""
    parts = {"offset_adapter.fc1": "difference.down", "offset_adapter.conv": "difference.conv"}
    parts |= {"offset_adapter.fc2": "difference.up", "fc1": "down", "conv": "conv", "fc2": "up"}
    visual = {n.removeprefix("visual."): t for n, t in weights.items() if n.startswith("visual.")}
    places, options = adapters(visual, "fc1")
    found = of_adapters(visual, places, parts)
    with_head = any(name.startswith("mlm_") for name in weights)
    head = f"transformer.resblocks.{count(weights, 'transformer.resblocks.') - 1}." if with_head else "none"
    text = {n: t for n, t in weights.items() if ".adapter_" in n and not n.startswith(("visual.", head))}
    tuning: list[Options] = [{"name": "none"}]
    if text:
        of_text, text_options = adapters(text, "textad_fc1")
        made = of_adapters(text, of_text, {"textad_fc1": "down", "textad_fc2": "up"})
        found |= {n.replace("image_tuning", "text_tuning"): t for n, t in made.items()}
        tuning = [{"name": "text_adapter", **text_options}]
    return _tuned(weights, found, r"(.+)", [{"name": "ted_adapter", **options}], tuning, unused=r".*adapter.+|mlm_.+")


def aim(weights: Weights) -> Tuned:
    """Adapters of the image tower and frame positions; the classifier has no place here."""
    names = {"T": "time", "S": "space", "MLP": "mlp", "T_in": "time_input"}
    found = {"image_tuning.0.positions.weight": weights["temporal_embedding"][0]}
    for original, tensor in weights.items():
        if match := re.fullmatch(r"transformer\.resblocks\.(\d+)\.(\w+)_Adapter(_in)?\.D_fc(\d)\.(.+)", original):
            block, kind, into, layer, part = match.groups()
            name = names[kind + (into or "")]
            found[f"image_tuning.0.adapters.{name}.{block}.{'down' if layer == '1' else 'up'}.{part}"] = tensor
    narrow, width = weights["transformer.resblocks.0.S_Adapter.D_fc1.weight"].shape
    options: Options = {"ratio": narrow / width, "frames": weights["temporal_embedding"].shape[1]}
    options["before_time"] = any("T_Adapter_in" in name for name in weights)
    return _image_only(weights, found, {"name": "aim", **options}, r".+_Adapter.+|temporal_embedding|cls_head\..+")


def evl(weights: Weights) -> Tuned:
    """The decoder, with its last layer as ours; a tower whose patch embedding has a bias, which joins the positions."""
    layers = count(weights, "decoder.decoder_layers.")
    found = {"image_tuning.0.token": weights["decoder.cls_token"]}
    for layer in range(layers):
        prefix, ours = f"decoder.decoder_layers.{layer}.", f"image_tuning.0.layers.{layer}."
        found |= fused_attention(weights, f"{prefix}attn.", f"{ours}attention.")
        names = {"norm1": "norm_token", "norm3": "norm_seen", "norm2": "norm_mlp"}
        names |= {"mlp.fc1": "mlp.c_fc", "mlp.fc2": "mlp.c_proj"}
        for old, new in names.items():
            found |= linear(weights, prefix + old, ours + new)
        found |= linear(weights, f"decoder.temporal_conv.{layer}", f"image_tuning.0.conv.{layer}")
        found[f"image_tuning.0.positions.{layer}.weight"] = weights[f"decoder.temporal_pos_embed.{layer}"]
        for old, new in (("w1", "before"), ("w2", "after")):
            found[f"image_tuning.0.motion.{layer}.{new}"] = weights[f"decoder.cross_attention.{layer}.{old}"]
    found |= {**linear(weights, "proj.0", "image_tuning.0.norm"), **linear(weights, "proj.2", "image_tuning.0.read")}
    width = len(weights["decoder.cls_token"])
    ratio = len(weights["decoder.decoder_layers.0.mlp.fc1.bias"]) / width
    frames = len(weights["decoder.temporal_pos_embed.0"])
    tuning = {"name": "evl", "layers": layers, "mlp_ratio": ratio, "frames": frames}
    return Tuned(_evl_tower(weights), found, [tuning], [{"name": "none"}], [])


def clip4clip_3d(weights: Weights) -> Tuned:
    """The three-dimensional patch embedding beside an image tower, alone or below ``clip.visual.``."""
    visual = {n.removeprefix("clip.").removeprefix("visual."): t for n, t in weights.items()}
    return _image_only(visual, {"image_tuning.1.weight": visual["conv2.weight"]}, {"name": "patch3d"}, "conv2.+", True)


def ts2net(weights: Weights) -> Tuned:
    """Token shift, which has no weights, token selection and temporal transformer."""
    selector = r"visual_token_selector\.score_predictor\."
    renames: Renames = (
        (rf"{selector}in_conv\.0\.(.+)", r"image_tuning.2.enter_norm.\1"),
        (rf"{selector}in_conv\.1\.(.+)", r"image_tuning.2.enter_linear.\1"),
        (rf"{selector}out_conv\.0\.(.+)", r"image_tuning.2.hidden.\1"),
        (rf"{selector}out_conv\.2\.(.+)", r"image_tuning.2.out.\1"),
    )
    rest = {n: t for n, t in weights.items() if ours_of(n, renames) is None and not n.startswith("clip.")}
    head = ts2net_head({**rest, **{n: t for n, t in weights.items() if n == "clip.logit_scale"}})
    found = {**translated(weights, renames), **head.translate(rest)[0]}
    towers = {
        n.removeprefix("clip.").replace("attn.net.", "attn."): t for n, t in weights.items() if n.startswith("clip.")
    }
    return Tuned(
        towers,
        found,
        [{"name": "full"}, {"name": "token_shift"}, {"name": "token_selection"}],
        [{"name": "full"}],
        [],
        {"name": head.temporal[0], **head.temporal[1]},
        {"name": head.similarity[0], **head.similarity[1]},
    )


def clip_lora(weights: Weights) -> Tuned:
    """Low-rank changes of one or both towers, under the names of the split attention."""
    towers, found = dict[str, Tensor](), dict[str, Tensor]()
    parts = {"q_proj": "query", "k_proj": "key", "v_proj": "value", "proj": "out"}
    sides = {"visual.": "clip.visual.transformer", "": "clip.transformer"}
    rank = 0
    for original, tensor in weights.items():
        pattern = r"(visual\.)?transformer\.resblocks\.(\d+)\.attn\.(q_proj|k_proj|v_proj|proj)\.w_lora_([AB])"
        if match := re.fullmatch(pattern, original):
            side, block, part, matrix = match.groups()
            place = f"backbone.{sides[side or '']}.resblocks.{block}.attn.{parts[part]}.lora_{matrix}.default.weight"
            found[place] = tensor
            rank = min(tensor.shape)
        else:
            towers[original] = tensor
    used = [parts[p] for p in parts if any(f".{p}.w_lora_A" in n for n in weights)]
    tuning = {"name": "lora", "rank": rank, "parts": used}
    image, text = (
        tuning if any(name.startswith(f"backbone.{side}") for name in found) else {"name": "none"}
        for side in sides.values()
    )
    return Tuned(towers, found, [image], [text], [])


def _evl_tower(weights: Weights) -> dict[str, Tensor]:
    rename = {"cls_token": "class_embedding", "pos_embed": "positional_embedding"}
    changes = {"blocks.": "layers.", ".attn.": ".self_attn.", "norm": "layer_norm", "ln_pre": "pre_layrnorm"}
    plain: dict[str, Tensor] = {}
    for name, tensor in weights.items():
        if not name.startswith("backbone.") or "patch_embed" in name:
            continue
        short = name.removeprefix("backbone.")
        short = rename.get(short, short)
        for old, new in changes.items():
            short = short.replace(old, new)
        plain[short] = tensor
    towers = openai_names(plain)
    patches = weights["backbone.patch_embed.proj.weight"]
    patch = round((patches.shape[1] / 3) ** 0.5)
    positions = weights["backbone.pos_embed"].clone()
    positions[1:] += weights["backbone.patch_embed.proj.bias"]
    return {
        **towers,
        "visual.conv1.weight": patches.reshape(-1, 3, patch, patch),
        "visual.positional_embedding": positions,
    }


def _image_only(weights: Weights, found: dict[str, Tensor], tuning: Options, unused: str, full: bool = False) -> Tuned:
    """A checkpoint that holds an image tower under plain names beside its tuning."""
    towers = {f"visual.{n}": t for n, t in weights.items() if re.fullmatch(VISUAL, n) and not re.fullmatch(unused, n)}
    left = [n for n in weights if f"visual.{n}" not in towers and not re.fullmatch(unused, n)]
    tunings = [{"name": "full"}, tuning] if full else [tuning]
    return Tuned(towers, found, tunings, [{"name": "full" if full else "none"}], left)


def _tuned(
    weights: Weights,
    found: dict[str, Tensor],
    tower: str,
    image_tuning: list[Options],
    text_tuning: list[Options],
    unused: str = "",
    **parts: Options,
) -> Tuned:
    """Sort what is left: the towers' weights match ``tower``, whose group is OpenAI's name."""
    towers, left = {}, []
    for name, tensor in weights.items():
        if unused and re.fullmatch(unused, name):
            continue
        match = re.fullmatch(tower, name)
        if match is None:
            left.append(name)
        elif match[1] == "logit_scale":
            found["logit_scale"] = tensor
        else:
            towers[match[1]] = tensor
    return Tuned(towers, found, image_tuning, text_tuning, left, **parts)


TUNED: dict[str, Callable[[Weights], Tuned]] = {
    maker.__name__: maker
    for maker in (vop, vificlip, stan, xclip_videox, st_adapter, m2clip, aim, evl, clip4clip_3d, ts2net, clip_lora)
}
