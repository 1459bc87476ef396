"""Any file of JSON objects, one a line, or all in one list or under their ids: a clip and its captions each."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from videoclip.data.annotations import read_json, read_lines
from videoclip.data.manifest import Clip
from videoclip.data.protocol import SplitCard
from videoclip.data.readers.csv import gathered
from videoclip.errors import DataError


def read(annotations: Path, splits: Mapping[str, SplitCard]) -> list[Clip]:
    """Keys as the columns of ``csv``; ``captions`` may be a list, and so may the value of an id.

    Raises:
        DataError: a line is no JSON object.
    """
    if not annotations.is_file():
        raise DataError(f"{annotations}: must be the file itself.")
    if annotations.suffix == ".jsonl":
        rows: Any = [_object(line, number, annotations) for number, line in enumerate(read_lines(annotations), 1)]
    else:
        rows = read_json(annotations)
    if isinstance(rows, Mapping):
        rows = [{"path": n, **(v if isinstance(v, Mapping) else {"captions": v})} for n, v in rows.items()]
    return gathered(rows, annotations)


def _object(line: str, number: int, source: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(line))
    except (ValueError, TypeError) as error:
        raise DataError(f"{source}, line {number}: is no JSON object ({error}).") from error
