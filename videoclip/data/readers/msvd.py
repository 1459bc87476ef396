"""MSVD: lists of clip names, captions in one JSON file of name -> sentences."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from videoclip.data.annotations import clips_with, find, present, read_lines
from videoclip.data.manifest import Clip
from videoclip.data.protocol import SplitCard
from videoclip.errors import DataError
from videoclip.files import read_json


def read(annotations: Path, splits: Mapping[str, SplitCard]) -> list[Clip]:
    """The captions also circulate as a pickle, which is not read: a pickle can run anything.

    Raises:
        DataError: there is only the pickle.
    """
    path, pickle = find(annotations, "captions_msvd.json"), find(annotations, "raw-captions.pkl")
    if path is None and pickle is not None:
        raise DataError(
            f"{pickle}: pickles are not read, since they can run any code; take captions_msvd.json, or write the "
            "pickle's dictionary of name -> sentences to a file of that name as JSON."
        )
    captions = read_json(path) if path else {}
    lists = {
        s: [n for file in card.files for n in read_lines(present(annotations, file))] for s, card in splits.items()
    }
    return [clip for split, ids in lists.items() for clip in clips_with(ids, captions, split)]
