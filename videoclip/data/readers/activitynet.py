"""ActivityNet Captions: JSON files of video -> timestamps and sentences; a video's sentences make one paragraph."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from videoclip.data.annotations import present
from videoclip.data.manifest import Clip
from videoclip.data.protocol import SplitCard
from videoclip.files import read_json


def read(annotations: Path, splits: Mapping[str, SplitCard]) -> list[Clip]:
    """Sentences are joined in the order of their file, without the spaces around them."""
    clips = []
    for split, card in splits.items():
        for file in card.files:
            for name, said in read_json(present(annotations, file)).items():
                paragraph = " ".join(sentence.strip() for sentence in said["sentences"])
                clips.append(Clip(id=name, path=name, captions=(paragraph,), split=split))
    return clips
