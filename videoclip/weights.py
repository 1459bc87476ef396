"""Arithmetic on trained weights: folding tunings into the towers, and going between two models in a straight line."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from videoclip.backbone import create_backbone
from videoclip.backbone.openclip import OpenClip
from videoclip.config import BackboneConfig, Component
from videoclip.errors import CheckpointError, ConfigError
from videoclip.model import VideoTextModel, build_model, load_model
from videoclip.tuning import Tuning

PRETRAINED = "pretrained"


def merge(model: VideoTextModel, out: str | Path) -> VideoTextModel:
    """Fold what was trained inside the towers into their own weights: the same scores from a plain CLIP.

    The towers are written along, as a folder that ``create_backbone`` loads: features can be cached with it, and
    another training can start from it.

    Args:
        model: its towers are changed in place.
        out: gets ``config.yaml``, ``model.safetensors`` and the folder ``backbone``.

    Raises:
        ConfigError: a tuning cannot be folded in, such as one that lets frames communicate.
        BackboneError: the backbone cannot be written as a folder.
    """
    tunings = [t for t in (*model.image_tuning, *model.text_tuning) if isinstance(t, Tuning)]
    if fixed := [type(t).__name__ for t in tunings if not t.mergeable]:
        raise ConfigError("merge", [f"{name} cannot be folded into a tower's own weights" for name in fixed])
    for tuning in tunings:
        tuning.merge()
    folder = Path(out)
    backbone = model.backbone
    assert isinstance(backbone, OpenClip)
    backbone.save(folder / "backbone")
    none = (Component(name="none"),)
    plain = {"backbone": BackboneConfig(name="backbone"), "image_tuning": none, "text_tuning": none}
    config = model.config.model_copy(update=plain)
    towers = create_backbone(str(folder / "backbone"))
    merged = VideoTextModel(towers, model.temporal, model.similarity, config, model.logit_scale.item())
    merged.save(folder)
    return merged.eval()


def blend(first: str | Path, second: str | Path, alpha: float) -> VideoTextModel:
    """Weights (1 - alpha) x first + alpha x second of two checkpoints of one architecture.

    Between the pretrained model and a fine-tuned one it is WiSE-FT's ensemble (Wortsman et al., CVPR 2022,
    arXiv:2109.01903; alpha 0.5) and FitCLIP's (arXiv:2203.13371; 0.4). Low-rank matrices are not blended one by one,
    which would be no line between the models: ``merge`` them first.

    Args:
        first: a run's folder or a checkpoint; ``pretrained`` takes the towers of ``second`` as they were loaded.
        second: a run's folder or a checkpoint.
        alpha: from 0, the first, to 1, the second.

    Raises:
        CheckpointError: the two differ in architecture or backbone; or ``second`` has trained parts that no pretrained
            model has.
        ConfigError: a model has tunings whose parameters mean nothing when averaged apart from each other.
    """
    other = load_model(second)
    start = build_model(other.config).eval() if first == PRETRAINED else load_model(first)
    _check_alike(start, other, str(first), str(second))
    theirs = other.trained()
    with torch.no_grad():
        for name, tensor in start.trained().items():
            if tensor.is_floating_point():
                tensor.lerp_(theirs[name].to(tensor.device), alpha)
    return start


def _check_alike(start: VideoTextModel, other: VideoTextModel, first: str, second: str) -> None:
    parts = {"backbone", "image_tuning", "text_tuning", "temporal", "similarity"}
    mine, theirs = start.config.model_dump(include=parts), other.config.model_dump(include=parts)
    if different := [name for name in sorted(parts) if mine[name] != theirs[name]]:
        raise CheckpointError(f"{first} and {second} differ in {', '.join(different)}: they cannot be blended.")
    tunings: Sequence[Component] = (*other.config.image_tuning, *other.config.text_tuning)
    if lora := [tuning.name for tuning in tunings if tuning.name == "lora"]:
        raise ConfigError(
            second, [f"{lora[0]} is a product of matrices: merge both checkpoints first, then blend them"]
        )
    new = sorted(name for name in other.trained() if name not in other.pretrained and name != "logit_scale")
    if first == PRETRAINED and new:
        raise CheckpointError(f"{second} has trained parts that no pretrained model has, such as {new[0]}: blend runs.")
