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

    In a list with several labels a line (mmaction2's) they stand together, between spaces, in ``label``; a path that
    stands twice has all of them. Elsewhere it must have the same label again.

    Raises:
        DataError: it is no file, or a path has two labels.
    """
    if not annotations.is_file():
        raise DataError(f"{annotations}: must be the list itself.")
    lines = _of_json(annotations) if annotations.suffix == ".json" else _of_text(annotations)
    found: dict[str, dict[str, None]] = {}
    listed = list(lines)
    several = any(len(labels) > 1 for _, labels in listed)
    for path, labels in listed:
        known = found.setdefault(path, dict.fromkeys(labels))
        if not several and list(known) != labels:
            raise DataError(f"{annotations}: {path!r} has the labels {' '.join(known)!r} and {' '.join(labels)!r}.")
        known.update(dict.fromkeys(labels))
    return [Clip(id=path, path=path, label=" ".join(known) or None) for path, known in found.items()]


def _of_json(path: Path) -> Iterator[tuple[str, list[str]]]:
    for name, label in dict(read_json(path)).items():
        if not isinstance(label, str | int):
            raise DataError(f"{path}: {name!r} has no label but {type(label).__name__}; this is no list of labels.")
        yield name, [str(label)]


def _of_text(path: Path) -> Iterator[tuple[str, list[str]]]:
    """Frame counts and offsets come first, and only where the path names no video file but a folder of frames."""
    lines = [line.split() for line in read_lines(path)]
    folders = not any("." in line[0] for line in lines)
    skipped = 0
    if folders and min(map(len, lines), default=0) > 2:
        skipped = 2 if len({len(line) for line in lines}) == 1 and len(lines[0]) == 4 else 1
    for name, *numbers in lines:
        yield name, numbers[skipped:]
