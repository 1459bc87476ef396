"""Checkpoints of the original repositories -> models of this one: one mapping of names per system."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from videoclip import config as configs
from videoclip import registry
from videoclip.backbone import Backbone, create_backbone
from videoclip.backbone.source import tensors_by_name
from videoclip.config import BackboneConfig, ModelConfig
from videoclip.convert.systems import SYSTEMS, Head
from videoclip.convert.towers import split_towers, write_backbone
from videoclip.convert.tuned import TUNED
from videoclip.errors import CheckpointError
from videoclip.files import reading
from videoclip.model import VideoTextModel, build_head, build_model, load_trained

WITH_TOWERS = ("clip4clip", "clip2video", "drl", "xclip", "xpool")


def read_head(system: str, state_dict: Mapping[str, Tensor]) -> Head:
    """Which module a checkpoint holds, and how its names become ours; read off its names and shapes.

    Raises:
        CheckpointError: the system is not known, or what it needs is not there.
    """
    if system not in SYSTEMS:
        raise CheckpointError(registry.unknown("system", system, list(SYSTEMS), "no such system"))
    try:
        return SYSTEMS[system](state_dict)
    except KeyError as error:
        raise CheckpointError(f"The {system} checkpoint has no {error.args[0]}.") from error


def load_original(
    system: str,
    state_dict: Mapping[str, Tensor],
    heads: int | None = None,
    temporal: Mapping[str, Any] | None = None,
    similarity: Mapping[str, Any] | None = None,
) -> VideoTextModel:
    """Build the model that a head of an original repository is, with its weights, for features as input.

    It computes what the original computes, also where that is a slip (``padding="original"`` and the like) that the
    modules of this package do not have by themselves.

    Args:
        system: a key of ``videoclip.convert.systems.SYSTEMS``; each function there says which heads it knows.
        state_dict: the original's parameters under their original names, without the CLIP towers.
        heads: attention heads; the originals' rule where not given.
        temporal, similarity: further options that no weight tells, such as ``{"mean_weight": 0.5}``; with ``name``
            another component.

    Raises:
        CheckpointError: the system is unknown; names are left over or missing, all of them listed.
        ConfigError: an option is unknown.
    """
    head = read_head(system, state_dict)
    weights, left_over = head.translate(state_dict)
    if left_over:
        raise CheckpointError(f"{system}: no place for {', '.join(left_over)}.")
    parts = {
        "temporal": _component(head.temporal, temporal, heads),
        "similarity": _component(head.similarity, similarity, heads),
    }
    config = ModelConfig.model_validate(parts)
    model = VideoTextModel(
        None,
        *build_head(config, head.width),
        config,
    )
    if "logit_scale" not in weights and not head.needs_scale:
        weights["logit_scale"] = model.logit_scale.detach()
    load_trained(model, weights, f"the {system} checkpoint")
    return model.eval()


def load_tuned(
    system: str, state_dict: Mapping[str, Tensor], backbone: Backbone, **options: Mapping[str, Any]
) -> VideoTextModel:
    """Build the model of a system that tunes CLIP's towers, with a checkpoint's weights, on a backbone.

    Where the system trains the towers as well, those of the checkpoint take the place of the backbone's; otherwise the
    backbone must be the one that was tuned.

    Args:
        system: a key of ``videoclip.convert.tuned.TUNED``; each function there says what it knows.
        state_dict: the original's parameters under their original names.
        backbone: on open_clip; it is tuned in place.
        options: ``image_tuning``, ``text_tuning``, ``temporal``, ``similarity``: further options of the last component
            of each, which no weight tells.

    Raises:
        CheckpointError: the system is unknown; names are left over or missing, all of them listed.
        ConfigError: an option is unknown.
    """
    if system not in TUNED:
        raise CheckpointError(registry.unknown("system", system, list(TUNED), "no such system"))
    try:
        tuned = TUNED[system](state_dict)
    except (KeyError, StopIteration) as error:
        raise CheckpointError(
            f"The {system} checkpoint has no {' '.join(map(str, error.args)) or 'tuning'}."
        ) from error
    if tuned.left_over:
        raise CheckpointError(f"{system}: no place for {', '.join(tuned.left_over)}.")
    config = configs.parse(
        {
            "backbone": backbone.spec,
            "temporal": {**tuned.temporal, **options.get("temporal", {})},
            "similarity": {**tuned.similarity, **options.get("similarity", {})},
            "image_tuning": [*tuned.image_tuning[:-1], {**tuned.image_tuning[-1], **options.get("image_tuning", {})}],
            "text_tuning": [*tuned.text_tuning[:-1], {**tuned.text_tuning[-1], **options.get("text_tuning", {})}],
        },
        ModelConfig,
        system,
    )
    model = build_model(config, backbone)
    trained = model.trained()
    towers = {f"backbone.clip.{name}": tensor for name, tensor in tuned.towers.items()}
    kept = {name: tensor for name, tensor in trained.items() if name.startswith("backbone.") or name == "logit_scale"}
    weights = {**kept, **{n: t for n, t in towers.items() if n in trained}, **tuned.weights}
    load_trained(
        model, {n: t.float().reshape(trained[n].shape) if n in trained else t for n, t in weights.items()}, system
    )
    return model.eval()


def convert_checkpoint(
    file: str | Path, system: str, out: str | Path, backbone: Backbone | None = None
) -> VideoTextModel:
    """A user's checkpoint of an original repository -> a folder that ``load_model`` reads.

    Args:
        file: ``.safetensors``, or what ``torch.save`` wrote of a state dict, alone or under a usual key.
        system: one of ``WITH_TOWERS``, whose towers are written along, or of ``videoclip.convert.tuned.TUNED``.
        out: gets ``config.yaml`` and ``model.safetensors``, and of ``WITH_TOWERS`` the folder ``backbone``.
        backbone: that was tuned; needed for the latter systems alone.

    Raises:
        CheckpointError: the file cannot be read or is no checkpoint of that system; names are left over or missing.
        BackboneError: the towers are no CLIP that open_clip can build.
    """
    out = Path(out)
    if system not in (*WITH_TOWERS, *TUNED):
        names = sorted({*WITH_TOWERS, *TUNED})
        raise CheckpointError(registry.unknown("system", system, names, "no towers are converted of this"))
    if system in TUNED and backbone is None:
        raise CheckpointError(f"{system} tunes a CLIP, which its checkpoint may not hold whole: name it by --model.")
    state_dict = read_state_dict(Path(file))
    try:
        with reading(file, f"a checkpoint of {system}", CheckpointError):
            if backbone is not None and system in TUNED:
                model = load_tuned(system, state_dict, backbone)
            else:
                model = _with_towers(system, state_dict, out)
    except CheckpointError as error:  # names that are missing or left over: the file is known here alone
        if str(file) in str(error):
            raise
        raise CheckpointError(f"{file}: {error}") from error
    model.save(out)
    return model.eval()


def _with_towers(system: str, state_dict: Mapping[str, Tensor], out: Path) -> VideoTextModel:
    """Build a head on the towers of its checkpoint, which are written to ``out``."""
    towers, rest = split_towers(state_dict)
    head = load_original(system, {**rest, "clip.logit_scale": towers["logit_scale"]})
    write_backbone(towers, out / "backbone")
    config = head.config.model_copy(update={"backbone": BackboneConfig(name="backbone")})
    backbone = create_backbone(str(out / "backbone"))
    return VideoTextModel(backbone, head.temporal, head.similarity, config, head.logit_scale.item())


def read_state_dict(file: Path) -> dict[str, Tensor]:
    """Return tensors by name, from a file that nothing but tensors is read from.

    Raises:
        CheckpointError: the file cannot be read, or does not hold a state dict.
    """
    remedy = "Save the model's state_dict() alone."
    with reading(file, "a checkpoint of plain weights", CheckpointError, remedy):
        content: Any
        if file.suffix == ".safetensors":
            content = load_file(file)
        else:
            with file.open("rb") as stream:
                content = torch.load(stream, "cpu", weights_only=True)
        for key in ("state_dict", "model_state_dict", "model"):
            if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
                content = content[key]
        tensors = tensors_by_name(content)
    return {name.removeprefix("module."): tensor for name, tensor in tensors.items()}


def _component(
    default: tuple[str, dict[str, Any]], given: Mapping[str, Any] | None, heads: int | None
) -> dict[str, Any]:
    name, options = default
    chosen = dict(given or {})
    if chosen.get("name", name) != name:
        name, options = chosen["name"], {}
    elif heads is not None and "heads" in options:
        options = {**options, "heads": heads}
    return {"name": name, "options": {**options, **{k: v for k, v in chosen.items() if k != "name"}}}
