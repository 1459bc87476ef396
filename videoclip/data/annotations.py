"""What the readers of annotation files share: finding a file, and reading it with errors that name it."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from videoclip.data.manifest import MEDIA_SUFFIXES, Clip
from videoclip.errors import DataError


def find(folder: Path, name: str) -> Path | None:
    """The first file below a folder that fits a name or pattern, or the path itself where it is that file."""
    if folder.is_file():
        return folder if folder.match(name) else None
    return min(folder.rglob(name), default=None)


def present(folder: Path, name: str) -> Path:
    """As ``find``, for a file that is known to be there.

    Raises:
        DataError: there is none.
    """
    path = find(folder, name)
    if path is None:
        raise DataError(f"{folder}: there is no {name}.")
    return path


def read_json(path: Path) -> Any:
    """The content of a JSON file.

    Raises:
        DataError: it cannot be read.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read as JSON ({error}); fetch it again.") from error


def read_lines(path: Path) -> list[str]:
    """The lines that hold something, without surrounding spaces.

    Raises:
        DataError: it cannot be read.
    """
    try:
        return [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read as text ({error}).") from error


def read_table(path: Path, columns: Sequence[str] = (), delimiter: str = ",") -> list[dict[str, str]]:
    """The rows of a table whose first line names its columns.

    Args:
        columns: those that must be there.

    Raises:
        DataError: a column is missing, or a row has another number of cells.
    """
    with path.open(newline="", encoding="utf-8-sig") as file:
        reader = csv.DictReader(file, delimiter=delimiter)
        missing = [name for name in columns if name not in (reader.fieldnames or [])]
        if missing:
            raise DataError(f"{path}: has no column {', '.join(missing)}; it has {', '.join(reader.fieldnames or [])}.")
        rows = []
        for row in reader:
            if None in row or None in row.values():
                raise DataError(f"{path}, line {reader.line_num}: has another number of cells than the first line.")
            rows.append(row)
    return rows


def clips_with(ids: Iterable[str], captions: dict[str, list[str]], split: str) -> list[Clip]:
    """A clip of each id, whole files of that name, with what is said about it: nothing where nothing is known."""
    return [Clip(id=name, path=name, captions=tuple(captions.get(name, ())), split=split) for name in ids]


def stem(name: str) -> str:
    """A file name without folder and without the suffix of a video, if it has one."""
    last = name.replace("\\", "/").rpartition("/")[2]
    return last[: -len(Path(last).suffix)] if Path(last).suffix.lower() in MEDIA_SUFFIXES else last.rstrip(".")
