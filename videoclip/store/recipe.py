"""What a store's numbers are: the recipe, its fingerprint, and the file ``store.json`` that holds it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from pydantic import TypeAdapter

from videoclip.errors import StoreError, writing
from videoclip.files import read_json, reading, replace_text, to_json

FORMAT = 2
DESCRIPTION = "store.json"
RESTORE = "Restore it from a copy, or cache into another folder."
LARGEST_SIDE = 1 << 24


@dataclass(frozen=True)
class Recipe:
    """Everything that decides what the stored numbers are; stores of unequal recipes must not mix.

    Attributes:
        backbone: fingerprint of the weights (with their preprocessing).
        preprocess: the parameters of the image transform; no ``pixel_shape``, as in stores from before it was one of
            them, means ``stored``.
        frames, fps, sampling: which frames were taken; see ``videoclip.video.clip.FrameChoice``.
        decoder: ``auto`` or ``pyav``.
        precision: of the image tower's arithmetic, ``fp32``, ``fp16`` or ``bf16``.
        dtype: of the stored rows.
        tensors: what is stored for each frame, as the shape of one row: ``frames`` (D,), and where asked for
            ``patches`` (N, D), ``views`` (V, D), and the frames' own pixels, ``pixels`` (3, S, S) or, byte by byte,
            ``jpeg``.
        views: the names of the V views.
        words: whether texts were stored with their words.
    """

    backbone: str
    preprocess: dict[str, Any]
    frames: int | None
    fps: float | None
    sampling: str
    decoder: str
    precision: str
    dtype: str
    tensors: dict[str, list[int]]
    views: list[str] = field(default_factory=list)
    words: bool = False

    @property
    def width(self) -> int:
        """D."""
        return self.tensors["frames"][-1]

    @property
    def pixels(self) -> Literal["pixels", "jpeg"] | None:
        """The tensor that holds the frames' pixels, if there is one."""
        names: tuple[Literal["pixels", "jpeg"], ...] = ("pixels", "jpeg")
        return next((name for name in names if name in self.tensors), None)

    def dtype_of(self, tensor: str) -> str:
        """The dtype of a tensor's rows."""
        return "uint8" if tensor in ("pixels", "jpeg") else self.dtype

    @property
    def text_tensors(self) -> dict[str, list[int]]:
        """What is stored for each text, as the shape of one row."""
        return {name: [self.width] for name in (("sentence", "words") if self.words else ("sentence",))}

    @property
    def fingerprint(self) -> str:
        """Hash of all fields."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()[:16]

    def differences(self, other: Recipe) -> list[str]:
        """``field: this one's / the other's`` where they differ."""
        absent = {"preprocess.pixel_shape": "stored"}
        mine, theirs = absent | dict(_leaves(asdict(self))), absent | dict(_leaves(asdict(other)))
        names = list(dict.fromkeys([*mine, *theirs]))
        pairs = ((name, mine.get(name), theirs.get(name)) for name in names)
        return [f"{name}: {one} / {two}" for name, one, two in pairs if one != two]


def _leaves(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def create_description(folder: Path, recipe: Recipe, backbone: Mapping[str, str | None]) -> None:
    """Make a folder a store, unless it is one already.

    Args:
        folder: new, empty, or a store of the same recipe.
        recipe: of everything that will be written there.
        backbone: name and pretrained tag that load the backbone again.

    Raises:
        StoreError: the folder holds other things, or a store of another recipe; the fields that differ are listed.
    """
    if not (folder / DESCRIPTION).exists():
        content = {"format": FORMAT, "backbone": dict(backbone), "recipe": asdict(recipe)}
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
            temporary = folder / f"{DESCRIPTION}.tmp"
            temporary.unlink(missing_ok=True)
            if any(folder.iterdir()):
                raise StoreError(f"{folder} is neither empty nor a feature store; choose another folder.")
            replace_text(folder / DESCRIPTION, to_json(content, indent=2) + "\n")
    different = read_description(folder)[0].differences(recipe)
    if different:
        raise StoreError(
            f"{folder} was made by another recipe (there / now: {'; '.join(different)}); "
            "choose another folder or the same recipe."
        )


def read_description(folder: Path) -> tuple[Recipe, dict[str, Any]]:
    """The recipe of a store, and the name and tag of its backbone.

    Raises:
        StoreError: the folder is not a store, is one of another version, or its description is damaged.
    """
    path = folder / DESCRIPTION
    if not path.is_file():
        raise StoreError(f"{folder} is not a feature store (it has no {DESCRIPTION}); make one with `videoclip cache`.")
    content = read_json(path, StoreError, RESTORE)
    with reading(path, "the description of a store", StoreError, RESTORE):
        found = content.get("format")
        if found != FORMAT:
            raise StoreError(f"{folder}: store format {found}; this version reads {FORMAT}: cache again.")
        recipe = TypeAdapter(Recipe).validate_python(content["recipe"])
        _check_tensors(recipe)
        return recipe, {"name": str(content["backbone"]["name"]), **content["backbone"]}


def _check_tensors(recipe: Recipe) -> None:
    """Raise ValueError where a description was edited so that no row could be found."""
    if recipe.dtype not in ("float16", "float32"):
        raise ValueError(f"dtype {recipe.dtype!r}")
    shapes = recipe.tensors.values()
    if "frames" not in recipe.tensors or not all(0 < n < LARGEST_SIDE for shape in shapes for n in shape):
        raise ValueError(f"tensors {recipe.tensors}")
