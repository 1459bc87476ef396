"""Readers: the benchmarks' own annotation files -> a manifest. One file a data set; the file's name is the name.

A reader has ``read(annotations, splits)``: the clips of each split, whose paths are the names of their videos.
``splits`` is what the protocol's card says about the files of each; readers of no particular data set need none. A
reader may also have ``notes(annotations)``: what the user should know about how a file was read.
Nothing is ever downloaded.
"""

from __future__ import annotations

import importlib
import os
import pkgutil
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from videoclip.config import shipped
from videoclip.data.annotations import find
from videoclip.data.classes import ClassList, load_classes
from videoclip.data.join import Joined, join
from videoclip.data.manifest import Clip, locating, write_manifest
from videoclip.data.protocol import CUSTOM, Protocol, SplitCard, load_protocol
from videoclip.errors import DataError
from videoclip.files import reading
from videoclip.registry import unknown


@dataclass
class Made:
    """A manifest that was written, and what should be known about it.

    Attributes:
        clips: by split.
        missing: by split, ids of clips whose video file is not there, or that several files fit. They are in the
            manifest all the same, unless they were to be dropped.
        protocol: what was checked; ``custom`` if nothing was.
        notes: what was not found, and which numbers the labels were.
    """

    clips: dict[str, list[Clip]]
    missing: dict[str, list[str]]
    protocol: Protocol
    notes: list[str] = field(default_factory=list)


def names() -> list[str]:
    """All readers."""
    return [module.name for module in pkgutil.iter_modules(__path__)]


def protocols_of(reader: str) -> list[str]:
    """The cards of a reader's data set, the usual one first."""
    cards = [load_protocol(name) for name in shipped("protocol")]
    return [card.name for card in sorted(cards, key=lambda card: not card.usual) if card.reader == reader]


def make_manifest(
    reader: str,
    annotations: str | Path,
    videos: str | Path,
    out: str | Path,
    protocol: str | None = None,
    splits: Sequence[str] | None = None,
    classes: str | None = None,
    group: str | None = None,
    drop_missing: bool = False,
) -> Made:
    """Read a data set's annotation files, find its videos, check it, and write the manifest.

    Args:
        reader: name of a file in this folder.
        annotations: folder of the official files, or one file.
        videos: folder, at any depth below which the video files lie; see ``videoclip.data.join``.
        out: the manifest.
        protocol: a card of that data set, its usual one when not given; ``custom`` checks nothing.
        splits: only these.
        classes: a class list, see ``videoclip.data.classes``, for labels that are numbers; the protocol's when not
            given.
        group: a regular expression; what it finds in a clip's id, or its first bracket, is the clip's group.
        drop_missing: leave clips without a video file out of the manifest, after the protocol was checked.

    Raises:
        DataError: a file is missing or malformed, a split is not what the protocol says, or no clip is left.
    """
    for path in (annotations, videos):
        if not os.path.exists(path):  # unlike Path.exists, False for names that no system takes
            raise DataError(f"{path}: there is no such file or folder.")
    if not os.path.isdir(videos):
        raise DataError(f"{videos}: is not a folder; --videos names the folder of the video files.")
    annotations, folder = Path(annotations), Path(videos).resolve()
    card, checked = _card(reader, protocol), protocol != "custom"
    present, notes = _present(card, annotations, splits)
    with reading(annotations, f"an annotation file of {reader}"), locating(f"{annotations}, read as {reader}"):
        module = importlib.import_module(f"{__name__}.{reader}")
        clips = module.read(annotations, present)
        notes += module.notes(annotations) if hasattr(module, "notes") else []
    if not clips:
        raise DataError(f"{annotations}: no clip was read.")
    clips, numbers = _named(clips, _class_list(annotations, classes or card.classes), annotations)
    clips = _grouped(clips, group)
    notes += numbers + _checked(clips, present, card, annotations, checked)
    return _written(clips, folder, Path(out), Made({}, {}, card if checked else CUSTOM, notes), drop_missing)


def _checked(
    clips: Sequence[Clip], present: Iterable[str], card: Protocol, annotations: Path, checked: bool
) -> list[str]:
    """Compare the splits that are there with the card, and note those that have no captions."""
    notes = []
    for name in present:
        found = [clip for clip in clips if clip.split == name]
        captions = any(clip.captions for clip in found)
        if not captions and card.captions:
            notes.append(f"{name}: has no captions; {card.captions} comes from {card.origin(card.captions)}")
        if checked:
            card.check(name, found, annotations, captions)
    return notes


def _class_list(annotations: Path, source: str) -> ClassList | None:
    """Return a class list by name, or an official file among the annotations; None where none is wanted."""
    if not source:
        return None
    with reading(source, "a class list"):  # a name that no system takes
        return load_classes(find(annotations, source) or source)


def _named(clips: Sequence[Clip], classes: ClassList | None, source: Path) -> tuple[list[Clip], list[str]]:
    """Return clips with labels as the class list writes them, in place of numbers or other spellings, and notes.

    The notes give the lowest and highest number, and the classes without a clip: numbers that count from 1 are
    otherwise read as if they counted from 0, and nothing looks wrong.

    Raises:
        DataError: a label is not in the list, or a number is out of its range.
    """
    given = {clip.label for clip in clips if clip.label is not None}
    if classes is None or not given:
        return list(clips), []

    notes = []
    if numbers := sorted(int(label) for label in given - set(classes.labels) if label.isdecimal()):
        span = f"{classes.first} ({classes.labels[0]}) to {classes.last} ({classes.labels[-1]})"
        told = f"labels are numbers from {numbers[0]} to {numbers[-1]}; the list {classes.name} has {span}"
        if numbers[0] < classes.first or numbers[-1] > classes.last:
            raise DataError(
                f"{source}: {told}. A list counts from 0, unless its lines begin with numbers of their own, as in "
                f"'1 {classes.labels[0]}'."
            )
        notes.append(told)
    names = {label: classes.label_of(label, str(source)) for label in given}
    if empty := [label for label in classes.labels if label not in names.values()]:
        notes.append(f"{len(empty)} classes without a clip: {', '.join(empty[:5])}{', ...' * (len(empty) > 5)}")
    return [c if c.label is None else c.model_copy(update={"label": names[c.label]}) for c in clips], notes


def _grouped(clips: Sequence[Clip], pattern: str | None) -> list[Clip]:
    if pattern is None:
        return list(clips)
    try:
        expression = re.compile(pattern)
    except re.error as error:
        raise DataError(f"--group {pattern!r} is not a regular expression ({error}).") from error
    found = [expression.search(clip.id) for clip in clips]
    lost = next((clip.id for clip, match in zip(clips, found, strict=True) if match is None), None)
    if lost is not None:
        raise DataError(f"--group {pattern!r} finds nothing in the id {lost!r}.")
    return [
        clip.model_copy(update={"group": match.group(1 if match.re.groups else 0)})
        for clip, match in zip(clips, found, strict=True)
        if match is not None
    ]


def _card(reader: str, protocol: str | None) -> Protocol:
    """The card that says which files to read."""
    if reader not in names():
        raise DataError(unknown("manifest", reader, names(), "no such data set"))
    cards = protocols_of(reader)
    if protocol in (None, "custom"):
        return load_protocol(cards[0]) if cards else CUSTOM
    card = load_protocol(str(protocol))
    if card.reader != reader:
        raise DataError(f"Protocol {card.name} is one of {card.reader}; {reader} has: {', '.join(cards) or 'none'}.")
    return card


def _present(card: Protocol, annotations: Path, wanted: Sequence[str] | None) -> tuple[dict[str, SplitCard], list[str]]:
    """The splits whose files are there, and a note on each other one."""
    if unknown_splits := set(wanted or ()) - set(card.splits):
        raise DataError(f"Protocol {card.name} has no split {min(unknown_splits)!r}; it has: {', '.join(card.splits)}.")
    found, notes = {}, []
    for name, split in card.splits.items():
        absent = [file for file in split.files if find(annotations, file) is None]
        if wanted is not None and name not in wanted:
            continue
        if absent:
            notes.append(f"{name}: left out, {', '.join(absent)} is not there; it comes from {card.origin(absent[0])}")
        else:
            found[name] = split
    if card.splits and not found:
        raise DataError(
            f"{annotations}: holds no split of {card.name}; nothing is downloaded here.\n" + "\n".join(notes)
        )
    return found, notes


def _written(clips: Sequence[Clip], folder: Path, out: Path, made: Made, drop_missing: bool) -> Made:
    """Give clips their files, note which have none or several, and write the manifest."""
    kept = []
    lost: list[tuple[Clip, Joined]] = []
    for clip, joined in zip(clips, join([str(clip.path) for clip in clips], folder), strict=True):
        if not joined.found:
            made.missing.setdefault(clip.split, []).append(clip.id)
            lost.append((clip, joined))
        if joined.found or not drop_missing:
            kept.append(clip.model_copy(update={"path": joined.path}))
            made.clips.setdefault(clip.split, []).append(kept[-1])
    if not kept:
        raise DataError(f"{out}: nothing to write, no clip has a video file.")

    made.notes += _doubts("fit several files and count as missing", [(c, j.rivals) for c, j in lost], folder)
    elsewhere = [(c, j.namesakes) for c, j in lost if not j.rivals]
    made.notes += _doubts(
        "are missing from the folder they name, and a file of that name is in another", elsewhere, folder
    )
    write_manifest(kept, out.resolve())
    return made


def _doubts(what: str, found: Sequence[tuple[Clip, Sequence[Path]]], folder: Path) -> list[str]:
    """Return a note on clips for which there are files that cannot be taken, if there are any."""
    there = [(clip, files) for clip, files in found if files]
    if not there:
        return []
    clip, files = there[0]
    names = " and ".join(file.relative_to(folder).as_posix() for file in files[:2])
    more = f" and {len(files) - 2} more" * (len(files) > 2)
    return [f"{len(there)} clips {what}, the first is {str(clip.path)!r}: {names}{more}"]
