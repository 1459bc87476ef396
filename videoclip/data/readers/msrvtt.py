"""MSR-VTT: lists of videos in CSV files; captions in one JSON file, except those of the 1k-A test list."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from videoclip.data.annotations import clips_with, find, present, read_table
from videoclip.data.manifest import Clip
from videoclip.data.protocol import SplitCard
from videoclip.files import read_json

CAPTIONS = ("MSRVTT_data.json",)  # all of them; the official files hold a part each
OFFICIAL = ("train_val_videodatainfo.json", "test_videodatainfo.json")


def read(annotations: Path, splits: Mapping[str, SplitCard]) -> list[Clip]:
    """A list with a column ``sentence`` brings its captions along, one a row."""
    captions: dict[str, list[str]] = {}
    names = CAPTIONS if find(annotations, CAPTIONS[0]) else OFFICIAL
    for path in (find(annotations, name) for name in names):
        for sentence in read_json(path)["sentences"] if path else []:
            captions.setdefault(sentence["video_id"], []).append(sentence["caption"])
    clips = []
    for split, card in splits.items():
        rows = [row for name in card.files for row in read_table(present(annotations, name), ["video_id"])]
        own: dict[str, list[str]] = {}
        for row in rows:
            own.setdefault(row["video_id"], []).extend([row["sentence"]] if "sentence" in row else [])
        clips += clips_with(own, own if any(own.values()) else captions, split)
    return clips
