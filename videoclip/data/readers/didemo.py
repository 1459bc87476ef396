"""DiDeMo: lists of videos, descriptions of moments in JSON files; a video's descriptions make one paragraph."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from videoclip.data.annotations import present, read_lines
from videoclip.data.manifest import Clip
from videoclip.data.protocol import SplitCard
from videoclip.files import read_json

SECONDS = 30.0  # what the annotators saw of each video


def read(annotations: Path, splits: Mapping[str, SplitCard]) -> list[Clip]:
    """Descriptions are joined in the order of their file; each split's files are its list and its descriptions."""
    clips = []
    for split, card in splits.items():
        names, moments = (present(annotations, file) for file in card.files)
        said: dict[str, list[str]] = {}
        for moment in read_json(moments):
            said.setdefault(moment["video"], []).append(moment["description"].strip())
        for name in read_lines(names):
            captions = (" ".join(said[name]),) if name in said else ()
            clips.append(Clip(id=name, path=name, captions=captions, split=split, start=0, end=SECONDS))
    return clips
