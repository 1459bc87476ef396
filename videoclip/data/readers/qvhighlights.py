"""QVHighlights: a query a line, on stretches of 150 seconds that are files of their own."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from videoclip.data.annotations import clips_with, present, read_lines
from videoclip.data.manifest import Clip
from videoclip.data.protocol import SplitCard


def read(annotations: Path, splits: Mapping[str, SplitCard]) -> list[Clip]:
    """All queries of a stretch are its captions; the moments they describe are not read."""
    clips = []
    for split, card in splits.items():
        said: dict[str, list[str]] = {}
        for line in (line for file in card.files for line in read_lines(present(annotations, file))):
            entry = json.loads(line)
            said.setdefault(entry["vid"], []).append(entry["query"])
        clips += clips_with(said, said, split)
    return clips
