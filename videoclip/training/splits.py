"""Which clips a run trains on, chooses its epoch on, and is tested on."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from videoclip.config import RunConfig
from videoclip.data.manifest import Clip, of_split, read_manifest
from videoclip.data.protocol import Protocol, load_protocol
from videoclip.errors import DataError
from videoclip.store.dataset import in_store
from videoclip.store.source import Source

HELD_OUT = "held_out"


@dataclass(frozen=True)
class Splits:
    """The clips of a run's splits.

    Attributes:
        train: those that the store has.
        validation: what the best epoch is chosen on.
        test: whole splits by name.
        chosen_on: what ``validation`` is, in words.
        protocol: what the splits were checked against.
    """

    train: list[Clip]
    validation: list[Clip]
    test: dict[str, list[Clip]]
    chosen_on: str
    protocol: Protocol

    @classmethod
    def of(cls, config: RunConfig, store: Source) -> Splits:
        """Read the manifest, check its splits against the protocol, and see that the store has them.

        What is wrong or missing should be told now, not after the training.

        Raises:
            DataError: a split is empty, is not what the protocol says, or is not in the store.
        """
        data, protocol = config.data, load_protocol(config.data.protocol)
        manifest = read_manifest(data.manifest)

        def split(name: str) -> list[Clip]:
            if name in protocol.splits:
                protocol.check(name, [clip for clip in manifest if clip.split == name], data.manifest)
            return of_split(manifest, name, data.manifest)

        if protocol.rule is None and config.select.metric.startswith("video_to_text"):
            raise DataError(f"Protocol {protocol.name} ranks no video to text, so select.metric must be another.")
        train, test = split(data.train), {name: split(name) for name in data.test}
        if config.select.split == "test_as_published":
            validation, chosen_on = test[data.test[0]], f"{data.test[0]}, the test split (test_as_published),"
        elif (chosen_on := data.validation or _usual(manifest, (data.train, *data.test))) != HELD_OUT:
            validation = split(chosen_on)
        else:
            train, validation = hold_out(train, data.held_out)
            chosen_on = f"{len(validation)} clips held out of {data.train},"
        for clips in (validation, *test.values()):
            in_store(clips, store, data.allow_missing)
        return cls(in_store(train, store, data.allow_missing), validation, test, chosen_on, protocol)


def _usual(manifest: Sequence[Clip], taken: Sequence[str]) -> str:
    return "val" if "val" not in taken and any(clip.split == "val" for clip in manifest) else HELD_OUT


def hold_out(clips: Sequence[Clip], count: int) -> tuple[list[Clip], list[Clip]]:
    """What stays, and about ``count`` clips, at most a tenth, set apart by the hash of their file: always the same.

    Clips of one file stay together, so that no part of a validation video is trained on.

    Raises:
        DataError: there are fewer than ten clips, or all are of one file.
    """
    wanted = min(count, len(clips) // 10)
    files: dict[str, list[Clip]] = {}
    for clip in clips:
        files.setdefault(str(clip.path), []).append(clip)
    apart: set[str] = set()
    taken = 0
    for file in sorted(files, key=lambda name: hashlib.sha256(files[name][0].id.encode()).digest()):
        if apart and taken + len(files[file]) > wanted:
            continue
        apart.add(file)
        taken += len(files[file])
    if not wanted or len(apart) == len(files):
        raise DataError(
            f"{len(clips)} training clips of {len(files)} file(s) are too few to hold some out for validation: name a "
            "validation split in data.validation."
        )
    stay = [clip for clip in clips if str(clip.path) not in apart]
    return stay, [clip for clip in clips if str(clip.path) in apart]
