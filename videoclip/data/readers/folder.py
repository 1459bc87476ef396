"""A folder of videos with a text file of captions beside each."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from videoclip.data.annotations import read_lines
from videoclip.data.manifest import Clip, read_manifest
from videoclip.data.protocol import SplitCard


def read(annotations: Path, splits: Mapping[str, SplitCard]) -> list[Clip]:
    """``a.mp4`` with ``a.txt``, a caption a line; a video without such a file has none."""
    clips = []
    for clip in read_manifest(annotations):
        side = Path(clip.path).with_suffix(".txt")
        clips.append(Clip(id=clip.id, path=clip.id, captions=tuple(read_lines(side)) if side.is_file() else ()))
    return clips
