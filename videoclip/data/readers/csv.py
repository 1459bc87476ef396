"""Any CSV or TSV table: a clip and a caption a row."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from videoclip.data.annotations import read_table
from videoclip.data.manifest import Clip, locating, seconds_of
from videoclip.data.protocol import SplitCard
from videoclip.errors import DataError

PATHS, SENTENCES = ("path", "video", "file", "filename", "video_id", "id"), ("caption", "captions", "sentence", "text")


def read(annotations: Path, splits: Mapping[str, SplitCard]) -> list[Clip]:
    """Return clips of columns path (or video, file, video_id) and caption (or sentence, text).

    Columns id, split, start, end, label and group are as in a manifest; other columns are not read.

    Raises:
        DataError: it is not a file, not a table, or a row is malformed.
    """
    if not annotations.is_file():
        raise DataError(f"{annotations}: must be the table itself.")
    return gathered(read_table(annotations), annotations)


def notes(annotations: Path) -> list[str]:
    """Say how the first time with a colon is read: spreadsheets turn minutes and seconds into hours and minutes."""
    for number, row in enumerate(read_table(annotations), 1):
        for key in ("start", "end"):
            if ":" in row.get(key, ""):
                read = f"{key} {row[key]!r} is read as {seconds_of(row[key]):g} s"
                return [f"row {number}: {read}, as m:ss or h:mm:ss, and so are all times with a colon"]
    return []


def gathered(rows: Iterable[Any], source: Path) -> list[Clip]:
    """Return clips of rows; rows of one id are one clip with several captions.

    Raises:
        DataError: a row names no video, has a wrong value, or differs from another row of its id in more than its
            caption.
    """
    found: dict[str, tuple[Clip, list[str]]] = {}
    for number, row in enumerate(rows, 1):
        with locating(f"{source}, row {number}"):
            clip = _clip(row)
        alone = clip.model_copy(update={"captions": ()})
        first, captions = found.setdefault(clip.id, (alone, []))
        if alone != first:
            raise DataError(
                f"{source}, row {number}: another row of {clip.id!r} has other values; give it an id of its own."
            )
        captions += clip.captions
    return [clip.model_copy(update={"captions": tuple(captions)}) for clip, captions in found.values()]


def _clip(row: Any) -> Clip:
    if not isinstance(row, Mapping):
        raise TypeError("is not an object")
    given = {key: str(value) if _is_number(key, value) else value for key, value in row.items()}
    given = {key: value for key, value in given.items() if value not in (None, "")}
    path = next((given[name] for name in PATHS if name in given), None)
    if path is None:
        raise ValueError(f"names no video; it needs one of {', '.join(PATHS)}")
    said = next((given[key] for key in SENTENCES if key in given), ())
    more: dict[str, Any] = {key: given[key] for key in ("split", "start", "end", "label", "group") if key in given}
    return Clip(id=given.get("id", path), path=path, captions=(said,) if isinstance(said, str) else said, **more)


def _is_number(key: str, value: Any) -> bool:
    """Say whether a value is a number where a name is expected: JSON files have labels and ids as numbers."""
    return isinstance(value, int) and not isinstance(value, bool) and key in (*PATHS, "label", "group", "split")
