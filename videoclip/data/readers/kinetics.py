"""Kinetics: a table for each split with label, video, start and end; files are named by the last three."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from videoclip.data.annotations import read_table
from videoclip.data.manifest import Clip, locating, seconds_of
from videoclip.data.protocol import SplitCard
from videoclip.errors import DataError

COLUMNS = ("label", "youtube_id", "time_start", "time_end")


def read(annotations: Path, splits: Mapping[str, SplitCard]) -> list[Clip]:
    """Clips of ``train.csv``, ``val.csv`` and so on; the split is the column of that name, or the file's name.

    Raises:
        DataError: there is no table.
    """
    files = [annotations] if annotations.is_file() else sorted(annotations.rglob("*.csv"))
    clips = []
    for file in files:
        for number, row in enumerate(read_table(file, COLUMNS), 1):
            with locating(f"{file}, row {number}"):
                start, end = int(seconds_of(row["time_start"])), int(seconds_of(row["time_end"]))
            name = f"{row['youtube_id']}_{start:06d}_{end:06d}"
            split = {"validate": "val"}.get(row.get("split") or file.stem, row.get("split") or file.stem)
            clips.append(Clip(id=name, path=name, split=split, label=row["label"], group=row["youtube_id"]))
    if not clips:
        raise DataError(f"{annotations}: holds no table of Kinetics (train.csv, val.csv, test.csv).")
    return clips
