"""QVHighlights: a query a line, on stretches of 150 seconds that are files of their own."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from videoclip.data.annotations import clips_with, present, read_objects
from videoclip.data.manifest import Clip
from videoclip.data.protocol import SplitCard


def read(annotations: Path, splits: Mapping[str, SplitCard]) -> list[Clip]:
    """All queries of a stretch are its captions; the moments they describe are not read."""
    clips = []
    for split, card in splits.items():
        said: dict[str, list[str]] = {}
        for entry in (entry for file in card.files for entry in read_objects(present(annotations, file))):
            said.setdefault(entry["vid"], []).append(entry["query"])
        clips += clips_with(said, said, split)
    return clips
