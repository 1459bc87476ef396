"""ViFi-CLIP's lists: a file of ``name number`` for each split; the card says which, and what the numbers mean."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from videoclip.data.annotations import present, read_list
from videoclip.data.manifest import Clip
from videoclip.data.protocol import SplitCard


def read(annotations: Path, splits: Mapping[str, SplitCard]) -> list[Clip]:
    """Ids are the names; labels are numbers, but for UCF101's clips, whose names tell their class.

    UCF101's base and novel lists number the classes in an order of their own.
    """
    clips = []
    for split, card in splits.items():
        for path, cells in (line for file in card.files for line in read_list(present(annotations, file), 1)):
            named = re.match(r"v_(\w+?)_g\d+", path)
            group = path.rpartition("_c")[0] if named else None
            clips.append(Clip(id=path, path=path, split=split, label=named[1] if named else cells[0], group=group))
    return clips
