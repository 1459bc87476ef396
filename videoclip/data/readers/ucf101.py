"""UCF101: trainlist0N.txt and testlist0N.txt of one of three splits; the folder of a clip is its class."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from videoclip.data.annotations import present, read_list
from videoclip.data.manifest import Clip
from videoclip.data.protocol import SplitCard


def read(annotations: Path, splits: Mapping[str, SplitCard]) -> list[Clip]:
    """Ids are the paths of the lists."""
    clips = []
    for split, card in splits.items():
        for path, _ in (line for file in card.files for line in read_list(present(annotations, file))):
            group = path.rpartition("_c")[0]  # clips that were cut from one video
            clips.append(Clip(id=path, path=path, split=split, label=path.partition("/")[0], group=group))
    return clips
