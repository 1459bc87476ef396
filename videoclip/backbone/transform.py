"""The image transform that a backbone's weights were trained with: given, agreed on, or asked for."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from videoclip.errors import BackboneError, printable

CHOICES = {
    "interpolation": ("bicubic", "bilinear"),
    "resize_mode": ("shortest", "longest", "squash"),
}
OPTIONS = {
    "mean": "--mean R G B",
    "std": "--std R G B",
    "interpolation": "--interpolation " + "|".join(CHOICES["interpolation"]),
    "resize_mode": "--resize-mode " + "|".join(CHOICES["resize_mode"]),
}
# What weights files got, whatever their architecture, before the transform was recorded: open_clip's default.
UNRECORDED = {
    "mean": [0.48145466, 0.4578275, 0.40821073],
    "std": [0.26862954, 0.26130258, 0.27577711],
    "interpolation": "bicubic",
    "resize_mode": "shortest",
}


def chosen_transform(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the parts of the transform that ``options`` sets, ready for JSON; other keys are passed over.

    Raises:
        BackboneError: a value is not one that open_clip knows.
    """
    try:
        return {name: checked_part(name, options[name]) for name in OPTIONS if options.get(name) is not None}
    except ValueError as error:
        raise BackboneError(f"{error}.") from error


def checked_part(name: str, value: Any) -> Any:
    """Return one part of a transform: three floats as a list, or the name of a mode.

    Raises:
        ValueError: the value is not one that open_clip knows.
    """
    if name in CHOICES:
        if value in CHOICES[name]:
            return value
        expected = f"one of {', '.join(CHOICES[name])}"
    else:
        lowest = 0 if name == "std" else -math.inf
        if _are_three(value) and all(lowest < part < math.inf for part in value):
            return [float(part) for part in value]
        expected = f"three {'positive' if name == 'std' else 'finite'} numbers"

    raise ValueError(f"{name} of the image transform must be {expected}, not {printable(repr(value))}")


def agreed_transform(
    chosen: Mapping[str, Any], tags: Sequence[Mapping[str, Any]], model: str, weights: str
) -> dict[str, Any]:
    """Complete what was chosen by the parts on which all pretrained tags of an architecture agree.

    Args:
        chosen: parts that the user gave; they win.
        tags: the transform of each pretrained tag.
        model: architecture, for the message.
        weights: file of weights, for the message.

    Raises:
        BackboneError: a part is neither given nor agreed on; names the options to add.
    """
    found = dict(chosen)
    missing = []
    for name in OPTIONS:
        values = [checked_part(name, tag[name]) for tag in tags]
        if name in found:
            continue
        if values and all(value == values[0] for value in values):
            found[name] = values[0]
        else:
            missing.append(name)

    if missing:
        why = "differs between" if tags else "is not known from"
        raise BackboneError(
            f"{weights}: the image transform that these weights were trained with {why} the pretrained tags of "
            f"{model}. Add {' '.join(OPTIONS[name] for name in missing)} (in a config: "
            f"{', '.join(f'model.backbone.{name}' for name in missing)})."
        )
    return found


def _are_three(value: Any) -> bool:
    numbers = isinstance(value, list | tuple) and len(value) == 3
    return numbers and all(isinstance(part, int | float) and not isinstance(part, bool) for part in value)
