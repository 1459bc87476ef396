"""A folder of videos for each class, at the top or below folders of the splits."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path, PurePosixPath

from videoclip.data.manifest import Clip, read_manifest
from videoclip.data.protocol import SplitCard
from videoclip.errors import DataError

SPLITS = {"train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}


def read(annotations: Path, splits: Mapping[str, SplitCard]) -> list[Clip]:
    """``walk/a.mp4``, or ``train/walk/a.mp4`` where every folder at the top is named as a split.

    Raises:
        DataError: a video lies in no folder.
    """
    clips = read_manifest(annotations)
    parts = [PurePosixPath(clip.id).parts for clip in clips]
    by_split = all(part[0].lower() in SPLITS for part in parts)
    found = []
    for clip, part in zip(clips, parts, strict=True):
        if len(part) < 2 + by_split:
            raise DataError(f"{clip.path}: lies in no folder of a class.")
        split = SPLITS[part[0].lower()] if by_split else ""
        found.append(Clip(id=clip.id, path=clip.id, split=split, label=part[1 if by_split else 0]))
    return found
