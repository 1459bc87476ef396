"""VATEX: English captions in JSON files; validation and test are lists of clips of the official validation file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from videoclip.data.annotations import clips_with, present, read_lines
from videoclip.data.manifest import Clip
from videoclip.data.protocol import SplitCard
from videoclip.files import read_json


def read(annotations: Path, splits: Mapping[str, SplitCard]) -> list[Clip]:
    """A split's file is a list of clips, or a JSON file whose clips all belong to it."""
    captions = {
        entry["videoID"]: entry["enCap"]
        for path in (sorted(annotations.rglob("vatex*.json")) if annotations.is_dir() else [annotations])
        for entry in read_json(path)
        if "enCap" in entry
    }
    clips = []
    for split, card in splits.items():
        for path in (present(annotations, file) for file in card.files):
            ids = [entry["videoID"] for entry in read_json(path)] if path.suffix == ".json" else read_lines(path)
            clips += clips_with(ids, captions, split)
    return clips
