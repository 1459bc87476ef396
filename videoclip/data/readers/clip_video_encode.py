"""What clip-video-encode left: for each video its embeddings, its caption (.txt) and what else was known (.json)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from videoclip.data.annotations import read_lines
from videoclip.data.manifest import Clip
from videoclip.data.protocol import SplitCard


def read(annotations: Path, splits: Mapping[str, SplitCard]) -> list[Clip]:
    """The key of a video's files is its id, as ``videoclip store import`` has it."""
    clips = []
    for path in sorted([*annotations.rglob("*.npy"), *annotations.rglob("*.npz")]):
        side, key = path.with_suffix(".txt"), path.relative_to(annotations).with_suffix("").as_posix()
        clips.append(Clip(id=key, path=key, captions=tuple(read_lines(side)) if side.is_file() else ()))
    return clips
