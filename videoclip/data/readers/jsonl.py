"""Any file of JSON objects, one a line, or all in one list or under their ids: a clip and its captions each."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from videoclip.data.annotations import read_objects
from videoclip.data.manifest import Clip
from videoclip.data.protocol import SplitCard
from videoclip.data.readers.csv import gathered
from videoclip.errors import DataError
from videoclip.files import read_json


def read(annotations: Path, splits: Mapping[str, SplitCard]) -> list[Clip]:
    """Return clips of objects with the columns of ``csv`` as keys; ``captions`` may be a list, as an id's value may.

    Raises:
        DataError: it is not a file, or not of JSON objects.
    """
    if not annotations.is_file():
        raise DataError(f"{annotations}: must be the file itself.")
    rows: Any = list(read_objects(annotations)) if annotations.suffix == ".jsonl" else read_json(annotations)
    if isinstance(rows, Mapping):
        rows = [{"path": n, **(v if isinstance(v, Mapping) else {"captions": v})} for n, v in rows.items()]
    elif not isinstance(rows, list):
        raise DataError(f"{annotations}: must contain a list or an object, not {type(rows).__name__}.")
    return gathered(rows, annotations)
