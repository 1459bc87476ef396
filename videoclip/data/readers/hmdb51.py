"""HMDB51: a file for each class and split, in which 1 marks training clips, 2 test clips, 0 neither."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from videoclip.data.annotations import read_list
from videoclip.data.manifest import Clip
from videoclip.data.protocol import SplitCard

MARKS = {"1": "train", "2": "test"}


def read(annotations: Path, splits: Mapping[str, SplitCard]) -> list[Clip]:
    """Ids are class and file name; the pattern of the class files is the split's file."""
    clips = []
    pattern = next(iter(splits.values())).files[0]
    for path in sorted(annotations.rglob(pattern)):
        label = path.name.partition("_test_split")[0]
        for name, marks in read_list(path):
            split = MARKS.get(" ".join(marks))
            if split is not None and split in splits:
                clips.append(Clip(id=f"{label}/{name}", path=f"{label}/{name}", split=split, label=label))
    return clips
