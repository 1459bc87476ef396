"""Lists of labelled clips in the dialects of action recognition: a path, then numbers, the last ones labels."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from videoclip.data.annotations import read_list
from videoclip.data.manifest import Clip
from videoclip.data.protocol import SplitCard
from videoclip.errors import DataError
from videoclip.files import read_json


def read(annotations: Path, splits: Mapping[str, SplitCard]) -> list[Clip]:
    """``path label``, ``path frames label``, ``path offset frames label``, ``path`` alone, or JSON of path -> label.

    Spaces, tabs or commas separate; a path with a video's suffix may contain spaces and commas, and a label may be
    several words. In a list with several numbers per line (mmaction2's) they appear together, between spaces, in
    ``label``; a path that is listed twice has all of them. Elsewhere it must have the same label again.

    Raises:
        DataError: it is not a file, a line cannot be split, or a path has two labels.
    """
    if not annotations.is_file():
        raise DataError(f"{annotations}: must be the list itself.")
    lines = _of_json(annotations) if annotations.suffix == ".json" else _of_text(annotations)
    found: dict[str, dict[str, None]] = {}
    several = any(len(labels) > 1 for _, labels in lines)
    for path, labels in lines:
        known = found.setdefault(path, dict.fromkeys(labels))
        if not several and list(known) != labels:
            raise DataError(f"{annotations}: {path!r} has the labels {' '.join(known)!r} and {' '.join(labels)!r}.")
        known.update(dict.fromkeys(labels))
    return [Clip(id=path, path=path, label=" ".join(known) or None) for path, known in found.items()]


def _of_json(path: Path) -> list[tuple[str, list[str]]]:
    given = read_json(path)
    if not isinstance(given, Mapping):
        raise DataError(f"{path}: must contain an object of file names and labels, not {type(given).__name__}.")
    for name, label in given.items():
        if not isinstance(label, str | int) or isinstance(label, bool):
            raise DataError(f"{path}: the label of {name!r} is {type(label).__name__}, not text or a number.")
    return [(name, [str(label)]) for name, label in given.items()]


def _of_text(path: Path) -> list[tuple[str, list[str]]]:
    """Frame counts and offsets come first, and only where the path names no video file but a folder of frames."""
    lines = read_list(path)
    folders = not any("." in name for name, _ in lines)
    widths = {1 + len(cells) for _, cells in lines}
    skipped = 0
    if folders and min(widths, default=0) > 2:
        skipped = 2 if widths == {4} else 1
    return [(name, cells[skipped:]) for name, cells in lines]
