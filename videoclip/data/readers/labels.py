"""Lists of labelled clips in the dialects of action recognition: a path, then numbers, the last ones labels."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from videoclip.data.annotations import read_json, read_lines
from videoclip.data.manifest import Clip
from videoclip.data.protocol import SplitCard
from videoclip.errors import DataError


def read(annotations: Path, splits: Mapping[str, SplitCard]) -> list[Clip]:
    """``path label``, ``path frames label``, ``path offset frames label``, ``path`` alone, or JSON of path -> label.

    With several labels (mmaction2's multi-label lists) they stay together, between spaces, in ``label``. A path that
    stands twice is one clip if its label is the same.

    Raises:
        DataError: it is no file, or a path has two labels.
    """
    if not annotations.is_file():
        raise DataError(f"{annotations}: must be the list itself.")
    lines = _of_json(annotations) if annotations.suffix == ".json" else _of_text(annotations)
    found: dict[str, str | None] = {}
    for path, label in lines:
        if found.setdefault(path, label) != label:
            raise DataError(f"{annotations}: {path!r} has the labels {found[path]!r} and {label!r}.")
    return [Clip(id=path, path=path, label=label) for path, label in found.items()]


def _of_json(path: Path) -> Iterator[tuple[str, str | None]]:
    for name, label in read_json(path).items():
        yield name, str(label)


def _of_text(path: Path) -> Iterator[tuple[str, str | None]]:
    """Frame counts and offsets come first, and only where the path names no video file but a folder of frames."""
    lines = [line.split() for line in read_lines(path)]
    folders = not any("." in line[0] for line in lines)
    skipped = 0
    if folders and min(map(len, lines), default=0) > 2:
        skipped = 2 if len({len(line) for line in lines}) == 1 and len(lines[0]) == 4 else 1
    for name, *numbers in lines:
        yield name, " ".join(numbers[skipped:]) or None
