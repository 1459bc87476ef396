"""Recordings of systems that change CLIP's towers, each on open_clip towers with the recorded weights."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from tests.golden.recording import Recording, pairs_loss
from tests.helpers.backbones import backbone_of
from videoclip import convert, registry
from videoclip.backbone.openclip import OpenClip
from videoclip.backbone.walk import Memory, Steps, Tower, attend, run_block, walk_image, walk_text
from videoclip.convert.tuned import TUNED
from videoclip.features import TextFeatures, VideoFeatures
from videoclip.model import VideoTextModel


class Seen(Steps):
    """Keeps the tokens before the final LayerNorm, and after each block."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks: list[Tensor] = []

    def after_block(self, block: int, x: Tensor, memory: Memory) -> Tensor:
        self.blocks.append(x)
        return x

    def leave(self, x: Tensor, memory: Memory) -> Tensor:
        self.last = x
        return x


def load(recording: Recording, system: str, folder: Path, heads: int, **options: Mapping[str, Any]) -> VideoTextModel:
    """The recorded system on the recorded towers."""
    tuned = TUNED[system](recording.weights)
    backbone = backbone_of(folder, tuned.towers, heads, recording.options.get("text_heads", 1))
    return convert.load_tuned(system, recording.weights, backbone, **options)


def clip_of(recording: Recording, channels_first: bool = False) -> Tensor:
    """The recorded pixels (B, T, 3, S, S)."""
    video = recording.inputs["video"]
    return video.transpose(1, 2) if channels_first else video


def image_walk(model: VideoTextModel, pixels: Tensor) -> tuple[Tensor, Seen]:
    """Frames (B, T, D) and what was seen on the way."""
    seen = Seen()
    tunings = [t for t in model.image_tuning if t.walks]
    frames, _ = walk_image(tunings[0].tower, pixels, [*tunings, seen])
    return frames, seen


def gradients(model: VideoTextModel, loss: Tensor, names: Mapping[str, str]) -> dict[str, Tensor]:
    """Gradients under their recorded names, which ``names`` gives for ours."""
    loss.backward(retain_graph=True)
    parameters = dict(model.named_parameters())
    return {f"grad.{original}": parameters[ours].grad for ours, original in names.items()}


def vop_basic(recording: Recording, folder: Path) -> None:
    o = recording.options
    sides = {"prefix": o["tp_prefix_token_num"], "suffix": o["tp_suffix_token_num"]}
    model = load(recording, "vop", folder, o["vision_heads"], text_tuning=sides)
    text = F.normalize(
        walk_text(model.text_tuning[0].tower, recording.inputs["text"], model.text_tuning).sentence, dim=-1
    )
    frames = F.normalize(image_walk(model, clip_of(recording))[0], dim=-1)
    video = frames.mean(1)
    count = min(len(text), len(video))
    mine = {"text_embedding": text, "frame_embeddings": frames, "video_embedding": video}
    mine["loss"] = (text[:count] * video[:count]).sum() + frames.pow(3).sum()
    names = {"text_tuning.0.prompts": "text_prompt_learner.text_prompts"}
    mine |= gradients(model, mine["loss"], names)
    grad = model.image_tuning[0].shared.grad
    mine["grad.visual_prompt_learner.visual_prompts"] = grad[:, None]
    recording.check(mine)


def vificlip(recording: Recording, folder: Path) -> None:
    """The placeholders that their texts have where prompts go are taken out: here prompts are put in."""
    o, tokens = recording.options, recording.inputs["tokenized_prompts"]
    recording.weights = dict(recording.weights)
    tuned = TUNED["vificlip"](recording.weights)
    towers = {**tuned.towers, "token_embedding.weight": recording.inputs["token_embedding"].detach()}
    model = convert.load_tuned(
        "vificlip", recording.weights, backbone_of(folder, towers, o["vision_heads"], o["text_heads"])
    )
    if o["PROMPT_MODEL"]:
        count = o["N_CTX_TEXT"]
        tokens = torch.cat([tokens[:, :1], tokens[:, 1 + count :], torch.zeros_like(tokens[:, :count])], 1)
        frames = image_walk(model, clip_of(recording))[0]
    else:
        frames = model.backbone.encode_image(clip_of(recording).flatten(0, 1)).unflatten(
            0, clip_of(recording).shape[:2]
        )
    text = model.encode_text(tokens).sentence
    logits = model(TextFeatures(text), VideoFeatures.from_frames(frames)).T
    mine = {"frame_features": frames, "text_features": text, "logits": logits}
    mine["loss"] = F.cross_entropy(logits, recording.inputs["labels"])
    names = {"backbone.clip.visual.conv1.weight": "image_encoder.conv1.weight"}
    names |= {"backbone.clip.text_projection": "text_encoder.text_projection"}
    mine |= gradients(model, mine["loss"], names)
    for tuning, first, deep in (
        (model.image_tuning[-1], "image_encoder.VPT", "image_encoder.transformer"),
        (model.text_tuning[-1], "prompt_learner.ctx", "text_encoder.transformer"),
    ):
        for layer, grad in enumerate(tuning.prompts.grad if o["PROMPT_MODEL"] else ()):
            mine[f"grad.{first}" if not layer else f"grad.{deep}.resblocks.{layer}.VPT_shallow"] = grad
    recording.check(mine)


def stan_branch(recording: Recording, folder: Path) -> None:
    o = recording.options
    model = load(recording, "stan", folder, o["heads"])
    pixels = clip_of(recording, channels_first=True)
    branch = model.image_tuning[1]
    states: list[Tensor] = []
    plain = branch._layer
    branch._layer = lambda *parts: states.append(plain(*parts)) or states[-1]  # type: ignore[func-returns-value]
    seen = Seen()
    frames, _ = walk_image(branch.tower, pixels, [seen, branch])
    mine = {"frame_embeddings": frames, "video_embedding": frames.mean(1), "clip_last": seen.last.flatten(0, 1)}
    for layer, state in enumerate(states):
        patches = state[:, 1:].unflatten(1, (pixels.shape[1], -1)).transpose(1, 2).flatten(1, 2)
        mine[f"branch_{layer}"] = torch.cat([state[:, :1], patches], 1)
    mine["loss"] = mine["video_embedding"].square().mean() + frames.mean()
    names = {"image_tuning.1.positions.weight": "STAN_time_embed.weight"}
    names |= {f"image_tuning.1.time.{k}.out.weight": f"STAN_T_layers.{k}.temporal_fc.weight" for k in range(o["depth"])}
    mine |= gradients(model, mine["loss"], names)
    for layer in range(o["depth"]):
        fused = branch.space[layer].attn.in_proj_weight.grad.chunk(3)
        mine |= {f"grad.STAN_S_layers.{layer}.self_attn.{p}_proj.weight": g for p, g in zip("qkv", fused, strict=True)}
    recording.check(mine)


def xclip_videox(recording: Recording, folder: Path) -> None:
    o, frames = recording.options, recording.case["dims"]["T"]
    parts = {"temporal": {"heads": o["mit_heads"]}, "similarity": {"heads": o["prompt_heads"]}}
    model = load(recording, "xclip_videox", folder, o["vision_heads"], **parts)
    seen = Seen()
    every = [model.image_tuning[1], seen]
    plain, tokens = walk_image(model.image_tuning[1].tower, clip_of(recording), every)
    video = model.temporal(
        VideoFeatures(plain, torch.ones(plain.shape[:2]).bool(), plain[..., 0], plain, tokens=tokens)
    )
    text = model.encode_text(recording.inputs["text"])
    similarity = model.similarity
    read = [part for layer in similarity.layers for part in layer.keys_and_values(similarity.norm(tokens))]
    mine = {"cls_frames": plain.flatten(0, 1), "patch_tokens": seen.last[:, :, 1:].flatten(0, 1)}
    mine |= {"video_embedding": video.frames.mean(1), "visual_prompt_input": tokens, "text_embedding": text.sentence}
    mine["prompt"] = similarity.prompts(text.sentence, tokens.new_zeros(tokens.shape[:2]), *read).transpose(0, 1)
    mine["logits"] = model.logits(similarity(text, video)).T
    mine["loss"] = F.cross_entropy(mine["logits"], recording.inputs["labels"])
    names = {"similarity.scale": "prompts_generator.alpha", "image_tuning.1.projection": "prompts_visual_proj"}
    blocks = range(len(model.image_tuning[1].messages))
    prefix = "visual.transformer.resblocks"
    names |= {f"image_tuning.1.messages.{k}.make.weight": f"{prefix}.{k}.message_fc.weight" for k in blocks}
    mine |= gradients(model, mine["loss"], names)
    mine["grad.mit.positional_embedding"] = model.temporal.positions.weight.grad[None, :frames]
    recording.check(mine)


def _grads_of_adapters(model: VideoTextModel, prefix: str, first: int, parts: Mapping[str, str]) -> dict[str, Tensor]:
    found = {}
    for kind, adapters in (("attn", model.image_tuning[0].attention), ("mlp", model.image_tuning[0].mlp)):
        for number, adapter in enumerate(adapters):
            for name, parameter in adapter.named_parameters():
                part, tensor = name.rsplit(".", 1)
                found[f"grad.{prefix.format(first + number)}adapter_pre_{kind}.{parts[part]}.{tensor}"] = parameter.grad
    return found


def st_adapter(recording: Recording, folder: Path) -> None:
    """The head reads the mean class token, normed afterwards, and classifies; it is written out here."""
    o, w = recording.options, recording.weights
    model = load(recording, "st_adapter", folder, o["heads"])
    _, seen = image_walk(model, clip_of(recording, channels_first=True))
    tower = model.image_tuning[0].tower
    logits = F.linear(tower.module.ln_post(seen.last[:, :, 0].mean(1)), w["fc.weight"], w["fc.bias"])
    tokens = recording.inputs["tokens"].unflatten(0, (-1, recording.case["dims"]["T"]))
    adapters = model.image_tuning[0].attention if o["pre_attn"] else model.image_tuning[0].mlp
    mine = {"logits": logits, "adapter_out": adapters[-1](tokens).flatten(0, 1)}
    mine["loss"] = F.cross_entropy(logits, recording.inputs["labels"])
    mine["loss"].backward()
    parts = {"down": "fc1", "conv": "conv", "up": "fc2"}
    first = o["layers"] - o["adapter_layers"]
    mine |= _grads_of_adapters(model, "transformer.resblocks.{}.", first, parts)
    recording.check(mine)


def m2clip_ted_adapter(recording: Recording, folder: Path) -> None:
    """One block of each tower: they become towers of one block."""
    o, frames = recording.options, recording.case["dims"]["T"]
    named = {}
    for name, tensor in recording.weights.items():
        side, rest = name.split(".", 1)
        named[f"{'visual.' if side == 'block' else ''}transformer.resblocks.0.{rest}"] = tensor
    tuned, width = TUNED["m2clip"](named), o["width"]
    towers = {"visual.conv1.weight": torch.zeros(width, 3, 2, 2), "visual.class_embedding": torch.zeros(width)}
    rows = 1 + recording.case["dims"]["grid"] ** 2
    towers |= {"visual.positional_embedding": torch.zeros(rows, width), **tuned.towers}
    towers |= {"positional_embedding": torch.zeros(16, width), "token_embedding.weight": torch.zeros(9, width)}
    model = convert.load_tuned("m2clip", named, backbone_of(folder, towers, o["heads"], o["heads"]))
    image, text = model.image_tuning[0], model.text_tuning[0]
    tokens = recording.inputs["tokens"].unflatten(0, (-1, frames))
    adapter = image.attention[0]
    mine = {"offset": adapter.difference(tokens[:, :, 1:]).flatten(0, 1), "adapter_out": adapter(tokens).flatten(0, 1)}
    mine["block_out"] = run_block(image.tower.blocks[0], 0, tokens, {}, [image], None)[0].flatten(0, 1)
    words = recording.inputs["text_tokens"]
    mine["text_adapter_out"] = text.attention[0](words)
    causal = text.tower.module.attn_mask[: words.shape[1], : words.shape[1]]
    mine["text_block_out"] = run_block(text.tower.blocks[0], 0, words, {}, [text], causal)[0]
    mine["loss"] = mine["block_out"].square().mean() + mine["text_block_out"].square().mean()
    mine["loss"].backward()
    parts = {"down": "fc1", "conv": "conv", "up": "fc2", "difference.down": "offset_adapter.fc1"}
    parts |= {"difference.conv": "offset_adapter.conv", "difference.up": "offset_adapter.fc2"}
    mine |= _grads_of_adapters(model, "block.", 0, parts)
    for kind, adapters in (("attn", text.attention), ("mlp", text.mlp)):
        for part, original in (("down", "textad_fc1"), ("up", "textad_fc2")):
            layer = getattr(adapters[0], part)
            mine[f"grad.text_block.adapter_pre_{kind}.{original}.weight"] = layer.weight.grad
    recording.check(mine)


def aim(recording: Recording, folder: Path) -> None:
    o, frames = recording.options, recording.case["dims"]["T"]
    model = load(recording, "aim", folder, o["heads"], image_tuning={"scale": o["adapter_scale"]})
    tuning = model.image_tuning[0]
    features = image_walk(model, clip_of(recording, channels_first=True))[0]
    tokens = recording.inputs["tokens"].transpose(0, 1).unflatten(0, (-1, frames))
    out = run_block(tuning.tower.blocks[0], 0, tokens, {}, [tuning], None)[0]
    mine = {"frame_features": features.transpose(1, 2)[..., None, None], "block_out": out.flatten(0, 1).transpose(0, 1)}
    mine["loss"] = mine["frame_features"].square().mean() + mine["block_out"].mean()
    mine["loss"].backward()
    mine["grad.temporal_embedding"] = tuning.positions.weight.grad[None]
    names = {"time": "T_Adapter", "space": "S_Adapter", "mlp": "MLP_Adapter", "time_input": "T_Adapter_in"}
    for kind, adapters in tuning.adapters.items():
        for block, adapter in enumerate(adapters):
            for part, layer in (("down", "D_fc1"), ("up", "D_fc2")):
                name = f"grad.transformer.resblocks.{block}.{names[kind]}.{layer}.weight"
                mine[name] = getattr(adapter, part).weight.grad
    recording.check(mine)


def evl(recording: Recording, folder: Path) -> None:
    """Their classifier stands where ours reads into the joint space."""
    o = recording.options
    tuned = TUNED["evl"](recording.weights)
    backbone = backbone_of(folder, {**tuned.towers, "visual.proj": torch.zeros(o["width"], o["classes"])}, o["heads"])
    heads = {"heads": o["decoder_heads"]}
    model = convert.load_tuned("evl", recording.weights, backbone, image_tuning=heads)
    tuning = model.image_tuning[0]
    motion: list[Tensor] = []
    read: list[Tensor] = []
    tuning.motion[0].register_forward_hook(lambda module, args, output: motion.append(output))
    tuning.norm.register_forward_hook(lambda module, args, output: read.append(args[0]))
    pixels = clip_of(recording, channels_first=True)
    logits = walk_image(tuning.tower, pixels, [tuning])[0][:, 0]  # the tower's own part is zero
    mine = {"logits": logits, "decoder_out": read[0], "cross_attention_0": F.pad(motion[0], (0, 0, 1, 0))}
    mine["loss"] = F.cross_entropy(logits, recording.inputs["labels"])
    names = {"image_tuning.0.token": "decoder.cls_token"}
    for layer in range(o["decoder_layers"]):
        names[f"image_tuning.0.positions.{layer}.weight"] = f"decoder.temporal_pos_embed.{layer}"
        names[f"image_tuning.0.motion.{layer}.before"] = f"decoder.cross_attention.{layer}.w1"
        names[f"image_tuning.0.motion.{layer}.after"] = f"decoder.cross_attention.{layer}.w2"
    mine |= gradients(model, mine["loss"], names)
    recording.check(mine)


def ts2_patch_shift(recording: Recording, folder: Path) -> None:
    """The attention of one block, on tokens that no square grid gives."""
    o, dims, x = recording.options, recording.case["dims"], recording.inputs["x"]
    width = x.shape[-1]
    towers = {
        f"visual.transformer.resblocks.0.attn.{n.removeprefix('attn.net.')}": t for n, t in recording.weights.items()
    }
    towers |= {"visual.transformer.resblocks.0.ln_1.weight": torch.ones(width)}
    tuning, _ = _bare(folder, towers, o["heads"], "token_shift", {"blocks": 1, "division": o["n_div"]}, dims["L"])
    shifted = tuning.attention_input(0, x.transpose(0, 1).unflatten(0, (-1, dims["T"])), {})
    block: Any = tuning.tower.blocks[0].requires_grad_(True)
    mine = {"shifted": shifted, "y": attend(block, shifted)}
    mine = {name: part.flatten(0, 1).transpose(0, 1) for name, part in mine.items()}
    mine["loss"] = mine["y"].square().mean()
    mine["loss"].backward()
    mine["grad.attn.net.in_proj_weight"] = block.attn.in_proj_weight.grad
    recording.check(mine)


def ts2_token_selection(recording: Recording, folder: Path) -> None:
    o, dims = recording.options, recording.case["dims"]
    tokens = recording.inputs["tokens"].unflatten(1, (dims["T"], -1))
    noise = recording.inputs["noise"].detach().unflatten(0, tokens.shape[:2])
    options = {"k": o["topk"], "samples": o["num_samples"], "sigma": o["sigma"]}
    tuning, _ = _bare(folder, {}, 1, "token_selection", options, dims["N"], dims["D"])
    parts = {"in_conv.0": tuning.enter_norm, "in_conv.1": tuning.enter_linear}
    parts |= {"out_conv.0": tuning.hidden, "out_conv.2": tuning.out}
    prefix = "visual_token_selector.score_predictor."
    for name, module in parts.items():
        module.load_state_dict({n: recording.weights[f"{prefix}{name}.{n}"] for n in module.state_dict()})
    scores = tuning.scores(tokens)
    selected = torch.cat([tokens[:, :, :1], tuning.select(tokens, noise)], 2).flatten(1, 2)
    mine = {"selected": selected, "scores": scores.flatten(0, 1)}
    mine["indicators"] = tuning.shares(scores, noise).flatten(0, 1)
    mine["loss"] = selected.pow(3).sum()
    mine["loss"].backward()
    mine |= {f"grad.{prefix}{name}.weight": module.weight.grad for name, module in parts.items()}
    mine |= {"grad.input:tokens": recording.inputs["tokens"].grad}
    recording.check(mine)


def ts2_similarity(recording: Recording, folder: Path) -> None:
    """Their mask of tokens, in another order than the tokens, is given here to the transformer behind ours."""
    model = recording.model("ts2net", heads=recording.options["heads"])
    each, tokens = recording.options["tokens_per_frame"], recording.inputs["selected_tokens"]
    mask = recording.inputs["video_mask"].bool().repeat(1, each)
    plain = registry.components("temporal")["transformer"].forward
    encoded = plain(model.temporal, VideoFeatures.from_frames(tokens, mask))
    kept = VideoFeatures.from_frames(encoded.frames[:, ::each], mask[:, ::each])
    text = TextFeatures(recording.inputs["text_features"][:, 0])
    logits = model.logits(model.similarity(text, kept))
    mine = {"sim": logits, "sim_frame": logits, "loss": pairs_loss(logits)}
    mine |= recording.gradients("ts2net", model, mine["loss"])
    recording.check(mine)
    parts = tokens.unflatten(1, (-1, each))
    whole = VideoFeatures.from_frames(parts[:, :, 0])
    whole = VideoFeatures(whole.frames, whole.mask, whole.seconds, whole.frames, tokens=parts[:, :, 1:].flatten(1, 2))
    expected = plain(model.temporal, VideoFeatures.from_frames(tokens)).frames[:, ::each]
    torch.testing.assert_close(model.temporal(whole).frames, expected)


def clip4clip_linear3d(recording: Recording, folder: Path) -> None:
    model = load(recording, "clip4clip_3d", folder, recording.options["heads"])
    frames, seen = image_walk(model, clip_of(recording))
    mine = {"hidden": seen.last.flatten(0, 1), "frame_features": frames, "loss": frames.square().mean()}
    mine |= gradients(model, mine["loss"], {"image_tuning.1.weight": "conv2.weight"})
    recording.check(mine)


def fewshot_clip_lora_attention(recording: Recording, folder: Path) -> None:
    """The attention of one block, apart and merged."""
    o, x = recording.options, recording.inputs["x"]
    prefix = "visual.transformer.resblocks.0.attn."
    named = {prefix + n.removeprefix("attn."): t for n, t in recording.weights.items()}
    tuned = TUNED["clip_lora"](named)
    fused = {
        f"{prefix}in_proj_{k}": torch.cat([named[f"{prefix}{p}_proj.{k}"] for p in "qkv"]) for k in ("weight", "bias")
    }
    fused |= {f"{prefix}out_proj.{k}": named[f"{prefix}proj.{k}"] for k in ("weight", "bias")}
    options = {"rank": o["r"], "alpha": o["alpha"], "parts": tuned.image_tuning[0]["parts"]}
    tuning, backbone = _bare(folder, fused, o["heads"], "lora", options, 5, x.shape[-1])
    parameters = {f"backbone.{name}": p for name, p in backbone.named_parameters()}
    for name, tensor in tuned.weights.items():
        parameters[name].data.copy_(tensor)
    block: Any = tuning.tower.blocks[0].eval()
    outputs = [
        attend(block, x.transpose(0, 1), mask).transpose(0, 1) for mask in (None, recording.inputs["causal_mask"])
    ]
    mine = {"y": outputs[0], "y_causal": outputs[1], "loss": outputs[0].square().mean() + outputs[1].mean()}
    mine["loss"].backward()
    names = {name.replace(".default.weight", ""): name for name in tuned.weights}
    for short, name in names.items():
        part, matrix = short.split(".")[-2:]
        original = "proj" if part == "out" else f"{part[0]}_proj"
        mine[f"grad.attn.{original}.w_{matrix}"] = parameters[name].grad
    tuning.merge()
    merged = tuning.tower.blocks[0].attn.in_proj_weight.chunk(3)
    mine |= {f"merged_{p}_proj": weight for p, weight in zip("qkv", merged, strict=True)}
    mine["merged_proj"] = tuning.tower.blocks[0].attn.out_proj.weight
    recording.check(mine)
    torch.testing.assert_close(attend(tuning.tower.blocks[0], x.transpose(0, 1)).transpose(0, 1), mine["y"])


def _bare(
    folder: Path,
    towers: Mapping[str, Tensor],
    heads: int,
    name: str,
    options: Mapping[str, Any],
    tokens: int,
    width: int = 0,
) -> tuple[Any, OpenClip]:
    """A tuning on a tower of one block, of which a recording holds a part."""
    width = width or next(t.shape[-1] for t in towers.values() if t.ndim == 2)
    rows = round((tokens - 1) ** 0.5) ** 2
    plain = {"visual.conv1.weight": torch.zeros(width, 3, 2, 2), "visual.class_embedding": torch.zeros(width)}
    plain |= {"visual.positional_embedding": torch.zeros(1 + rows, width)}
    plain |= {"visual.transformer.resblocks.0.ln_1.weight": torch.ones(width)}
    backbone = backbone_of(folder, {**plain, **towers}, heads)
    tower = Tower("image", backbone.image_tower, "recorded", backbone.tokenize)
    return registry.create("tuning", name, options, tower=tower), backbone


RUNNERS = {
    "vop_basic": vop_basic,
    "vificlip_full": vificlip,
    "vificlip_prompts": vificlip,
    "stan_branch": stan_branch,
    "xclip_videox": xclip_videox,
    "m2clip_ted_adapter": m2clip_ted_adapter,
    "st_adapter": st_adapter,
    "aim": aim,
    "evl": evl,
    "ts2_patch_shift": ts2_patch_shift,
    "ts2_token_selection": ts2_token_selection,
    "ts2_similarity": ts2_similarity,
    "clip4clip_linear3d": clip4clip_linear3d,
    "fewshot_clip_lora_attention": fewshot_clip_lora_attention,
}
