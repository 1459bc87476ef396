"""YouCook2: steps of cooking videos, each with its sentence and its stretch of the video."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path

from videoclip.data.annotations import present, read_table
from videoclip.data.manifest import Clip, locating, seconds_of
from videoclip.data.protocol import SplitCard
from videoclip.files import read_json

SUBSETS = {"training": "train", "validation": "test"}


def read(annotations: Path, splits: Mapping[str, SplitCard]) -> list[Clip]:
    """MIL-NCE's CSV file, or the official JSON file, of which a split takes its subset.

    A stretch that is described twice is two clips: the id of the second ends in ``_2``.
    """
    clips, times = [], Counter[str]()
    for split, card in splits.items():
        for video, start, end, sentence in (
            step for f in card.files for step in _steps(present(annotations, f), split)
        ):
            name = f"{video}_{start:g}_{end:g}"
            times[name] += 1
            name += f"_{times[name]}" if times[name] > 1 else ""
            clips.append(Clip(id=name, path=video, captions=(sentence,), split=split, start=start, end=end))
    return clips


def _steps(path: Path, split: str) -> Iterator[tuple[str, float, float, str]]:
    if path.suffix == ".csv":
        for number, row in enumerate(read_table(path, ["end", "start", "text", "video_id"]), 1):
            with locating(f"{path}, row {number}"):
                start, end = seconds_of(row["start"]), seconds_of(row["end"])
            yield row["video_id"], start, end, row["text"]
        return
    for video, found in read_json(path)["database"].items():
        for step in found.get("annotations", ()) if SUBSETS.get(found["subset"]) == split else ():
            start, end = step["segment"]
            yield video, seconds_of(str(start)), seconds_of(str(end)), step["sentence"]
