"""Charades: tables of videos, each with the script that its actors followed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from videoclip.data.annotations import present, read_table
from videoclip.data.manifest import Clip
from videoclip.data.protocol import SplitCard


def read(annotations: Path, splits: Mapping[str, SplitCard]) -> list[Clip]:
    """The script is the query, as in ECLIPSE."""
    clips = []
    for split, card in splits.items():
        for file in card.files:
            for row in read_table(present(annotations, file), ["id", "script"]):
                clips.append(Clip(id=row["id"], path=row["id"], captions=(row["script"],), split=split))
    return clips
