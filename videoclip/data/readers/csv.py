"""Any CSV or TSV table: a clip and a caption a row."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from videoclip.data.annotations import read_table
from videoclip.data.manifest import Clip
from videoclip.data.protocol import SplitCard
from videoclip.errors import DataError

PATHS, SENTENCES = ("path", "video", "file", "filename", "video_id", "id"), ("caption", "captions", "sentence", "text")


def read(annotations: Path, splits: Mapping[str, SplitCard]) -> list[Clip]:
    """Columns path (or video, file, video_id) and caption (or sentence, text); id, split, start, end, label as such."""
    if not annotations.is_file():
        raise DataError(f"{annotations}: must be the table itself.")
    return gathered(read_table(annotations, delimiter="\t" if annotations.suffix == ".tsv" else ","), annotations)


def gathered(rows: Iterable[Mapping[str, Any]], source: Path) -> list[Clip]:
    """Clips of rows; rows of one id are one clip with several captions.

    Raises:
        DataError: a row names no video, or rows of one id differ in more than their captions.
    """
    found: dict[str, dict[str, Any]] = {}
    for number, row in enumerate(rows, 1):
        path = next((row[name] for name in PATHS if row.get(name)), None)
        if path is None:
            raise DataError(f"{source}, row {number}: names no video; it needs one of {', '.join(PATHS)}.")
        name = str(row.get("id") or path)
        said = next((row[key] for key in SENTENCES if row.get(key)), ())
        more = {key: row[key] for key in ("split", "start", "end", "label") if row.get(key) not in (None, "")}
        clip = found.setdefault(name, {"path": path, "captions": [], **more})
        if {key: value for key, value in clip.items() if key != "captions"} != {"path": path, **more}:
            raise DataError(
                f"{source}, row {number}: another row of {name!r} has other values; give it an id of its own."
            )
        clip["captions"] += [said] if isinstance(said, str) else list(said)
    return [Clip(id=name, **values) for name, values in found.items()]
