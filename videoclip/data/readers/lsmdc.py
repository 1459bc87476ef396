"""LSMDC: tables without a first line of names, a clip and its sentence a row."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from videoclip.data.annotations import clips_with, present, read_lines
from videoclip.data.manifest import Clip
from videoclip.data.protocol import SplitCard
from videoclip.errors import DataError


def read(annotations: Path, splits: Mapping[str, SplitCard]) -> list[Clip]:
    """Six cells between tabs: name, aligned start and end, extracted start and end, sentence.

    Raises:
        DataError: a row has another number of cells.
    """
    clips = []
    for split, card in splits.items():
        said: dict[str, list[str]] = {}
        for path in (present(annotations, file) for file in card.files):
            for number, line in enumerate(read_lines(path), 1):
                cells = line.split("\t")
                if len(cells) != 6:
                    raise DataError(f"{path}, line {number}: expected 6 cells between tabs, found {len(cells)}.")
                said.setdefault(cells[0], []).append(cells[5])
        clips += clips_with(said, said, split)
    return clips
