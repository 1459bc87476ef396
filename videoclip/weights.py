"""Arithmetic on trained weights: folding tunings into the towers, and going between two models in a straight line."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn

from videoclip import registry
from videoclip.backbone.walk import Tower
from videoclip.config import Component
from videoclip.errors import CheckpointError, ConfigError
from videoclip.model import VideoTextModel, build_model, load_model
from videoclip.tuning import Tuning

PRETRAINED = "pretrained"


def merge(model: VideoTextModel) -> VideoTextModel:
    """Fold the tunings of both towers into the towers' own weights, in place: the same scores without their cost.

    The result is a model whose towers count as fully trained, so that it is saved with all their weights.

    Raises:
        ConfigError: a tuning cannot be folded in, such as one that lets frames communicate.
    """
    sides = {"image_tuning": model.image_tuning, "text_tuning": model.text_tuning}
    for name, tunings in sides.items():
        for tuning in tunings:
            if isinstance(tuning, Tuning) and tuning.walks and not tuning.mergeable:
                raise ConfigError(
                    f"model.{name}", [f"{type(tuning).__name__} cannot be folded into the tower's own weights"]
                )
    changed = {}
    for name, live in (("image_tuning", model.config.live_images), ("text_tuning", model.config.live_texts)):
        if not live:
            continue
        for tuning in sides[name]:
            if isinstance(tuning, Tuning) and tuning.mergeable:
                tuning.merge()
        tower: Tower = sides[name][0].tower  # type: ignore[assignment]
        setattr(model, name, nn.ModuleList([registry.create("tuning", "full", tower=tower)]))
        changed[name] = (Component(name="full"),)
    model.config = model.config.model_copy(update=changed)
    return model


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
