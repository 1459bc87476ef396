"""Something-Something V2: JSON of clips with a sentence, and the template that is its class."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from videoclip.data.annotations import present
from videoclip.data.manifest import Clip
from videoclip.data.protocol import SplitCard
from videoclip.files import read_json


def read(annotations: Path, splits: Mapping[str, SplitCard]) -> list[Clip]:
    """Ids are the numbers; the label is the template without brackets, the caption the sentence with its objects."""
    clips = []
    for split, card in splits.items():
        for entry in (entry for file in card.files for entry in read_json(present(annotations, file))):
            label = entry["template"].replace("[", "").replace("]", "")
            name = str(entry["id"])
            clips.append(Clip(id=name, path=name, split=split, label=label, captions=(entry["label"],)))
    return clips
