"""Which clips a run trains on, chooses its epoch on, and is tested on."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from videoclip.config import ClassesConfig, RunConfig
from videoclip.data.classes import Sentences, classes_of, load_classes, sentences_about
from videoclip.data.manifest import Clip, labelled, of_split, read_manifest
from videoclip.data.protocol import Protocol, load_protocol
from videoclip.errors import DataError
from videoclip.store.dataset import in_store
from videoclip.store.source import Source
from videoclip.training.recognition import Subject

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
        subject: the classes, in recognition.
    """

    train: list[Clip]
    validation: list[Clip]
    test: dict[str, list[Clip]]
    chosen_on: str
    protocol: Protocol
    subject: Subject | None = None

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
            select = of_split if data.classes is None else labelled
            return select(manifest, name, data.manifest)

        if protocol.rule is None and config.metric.startswith("video_to_text"):
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
        train = in_store(train, store, data.allow_missing)
        if data.classes is None:
            return cls(train, validation, test, chosen_on, protocol)
        subject = _subject(data.classes, train)
        for clips in (validation, *test.values()):
            subject.captioned(clips, str(data.manifest))  # every label must be known before the training
        return cls(subject.captioned(train, str(data.manifest)), validation, test, chosen_on, protocol, subject)


def _subject(config: ClassesConfig, train: Sequence[Clip]) -> Subject:
    """Classes and sentences; as many of each class as of the one with the fewest."""
    classes = load_classes(config.list) if config.list else classes_of(train)
    said = sentences_about(classes, config.templates, config.descriptions)
    least = min(map(len, said.texts))
    return Subject(classes, Sentences(said.name, tuple(texts[:least] for texts in said.texts)))


def _usual(manifest: Sequence[Clip], taken: Sequence[str]) -> str:
    return "val" if "val" not in taken and any(clip.split == "val" for clip in manifest) else HELD_OUT


def hold_out(clips: Sequence[Clip], count: int) -> tuple[list[Clip], list[Clip]]:
    """What stays, and about ``count`` clips, at most a tenth, set apart by the hash of their file: always the same.

    Clips of one file, or of one group where manifests tell it, stay together, so that no part of a validation video is
    trained on.

    Raises:
        DataError: there are fewer than ten clips, or all are of one file.
    """
    wanted = min(count, len(clips) // 10)
    files: dict[str, list[Clip]] = {}
    for clip in clips:
        files.setdefault(_source_of(clip), []).append(clip)
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
    stay = [clip for clip in clips if _source_of(clip) not in apart]
    return stay, [clip for clip in clips if _source_of(clip) in apart]


def _source_of(clip: Clip) -> str:
    return clip.group or str(clip.path)
