"""Arithmetic on trained weights: folding tunings into the towers, and going between two models in a straight line."""

from __future__ import annotations

from pathlib import Path

import torch

from videoclip.backbone import create_backbone
from videoclip.backbone.openclip import OpenClip
from videoclip.config import BackboneConfig, Component
from videoclip.errors import BackboneError, CheckpointError, ConfigError
from videoclip.model import VideoTextModel, build_model, load_model
from videoclip.tuning import Tuning

PRETRAINED = "pretrained"
TUNINGS = ("image_tuning", "text_tuning")


def merge(model: VideoTextModel, out: str | Path) -> VideoTextModel:
    """Fold what was trained inside the towers into their own weights: the same scores from a plain CLIP.

    The towers are written along, as a folder that ``create_backbone`` loads: features can be cached with it, and
    another training can start from it.

    Args:
        model: its towers are changed in place.
        out: gets ``config.yaml``, ``model.safetensors`` and the folder ``backbone``.

    Raises:
        ConfigError: a tuning cannot be folded in, such as one that lets frames communicate.
        BackboneError: the backbone is not one of open_clip, which can be written as a folder.
    """
    _saving(model)
    if fixed := [type(t).__name__ for t in _tunings(model) if not t.mergeable]:
        raise ConfigError("merge", [f"{name} cannot be folded into a tower's own weights" for name in fixed])
    for tuning in _tunings(model):
        tuning.merge()
    return _plain(model, Path(out))


def blend(first: str | Path, second: str | Path, alpha: float, out: str | Path) -> VideoTextModel:
    """Weights (1 - alpha) x first + alpha x second of two checkpoints, written as a third.

    Between the pretrained model and a fine-tuned one it is WiSE-FT's ensemble (Wortsman et al., CVPR 2022,
    arXiv:2109.01903; alpha 0.5) and FitCLIP's (arXiv:2203.13371; 0.4). Tunings that can be are folded into the towers
    first, so that the line is one between models, and the result is written as ``merge`` does; adapters and prompts
    are blended among themselves, which takes two runs of one config.

    Args:
        first: a run's folder or a checkpoint; ``pretrained`` takes the towers of ``second`` as they were loaded.
        second: a run's folder or a checkpoint.
        alpha: from 0, the first, to 1, the second.
        out: folder of the new checkpoint.

    Raises:
        CheckpointError: the two differ in architecture or backbone; or ``second`` has trained parts that no pretrained
            model has.
    """
    other = load_model(second)
    start = build_model(other.config).eval() if first == PRETRAINED else load_model(first)
    folds = all(tuning.mergeable for tuning in (*_tunings(start), *_tunings(other)))
    _check_alike(start, other, str(first), str(second), folds)
    if folds:
        _saving(start)
        for tuning in (*_tunings(start), *_tunings(other)):
            tuning.merge()
    theirs = other.state_dict()
    with torch.no_grad():
        for name, tensor in start.state_dict().items():
            if tensor.is_floating_point() and not (folds and name.startswith(TUNINGS)):
                tensor.lerp_(theirs[name], alpha)
    if folds:
        return _plain(start, Path(out))
    start.save(out)
    return start


def _tunings(model: VideoTextModel) -> list[Tuning]:
    return [t for t in (*model.image_tuning, *model.text_tuning) if isinstance(t, Tuning)]


def _saving(model: VideoTextModel) -> OpenClip:
    """Return a model's towers, if they can be written as a folder."""
    if not isinstance(model.backbone, OpenClip):
        raise BackboneError("Only towers of open_clip can be written as a model folder; this model has others.")
    return model.backbone


def _plain(model: VideoTextModel, folder: Path) -> VideoTextModel:
    """Write a model whose towers hold everything, and load it."""
    _saving(model).save(folder / "backbone")
    none = (Component(name="none"),)
    plain = {"backbone": BackboneConfig(name="backbone"), "image_tuning": none, "text_tuning": none}
    config = model.config.model_copy(update=plain)
    towers = create_backbone(str(folder / "backbone"))
    written = VideoTextModel(towers, model.temporal, model.similarity, config, model.logit_scale.item())
    written.save(folder)
    return written.eval()


def _check_alike(start: VideoTextModel, other: VideoTextModel, first: str, second: str, folds: bool) -> None:
    parts = {"backbone", "temporal", "similarity", *(() if folds else TUNINGS)}
    mine, theirs = start.config.model_dump(include=parts), other.config.model_dump(include=parts)
    if different := [name for name in sorted(parts) if mine[name] != theirs[name]]:
        raise CheckpointError(f"{first} and {second} differ in {', '.join(different)}: they cannot be blended.")
    ignored = ("backbone.", "logit_scale", *(TUNINGS if folds else ()))
    new = sorted(name for name in other.trained() if not name.startswith(ignored))
    if first == PRETRAINED and new:
        raise CheckpointError(f"{second} has trained parts that no pretrained model has, such as {new[0]}: blend runs.")
