"""Readers: the benchmarks' own annotation files -> a manifest. One file a data set; the file's name is the name.

A reader has ``read(annotations, splits)``: the clips of each split, whose paths are the names of their videos.
``splits`` is what the protocol's card says about the files of each; readers of no particular data set need none.
Nothing is ever downloaded.
"""

from __future__ import annotations

import importlib
import pkgutil
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from videoclip.config import shipped
from videoclip.data.annotations import find, stem
from videoclip.data.classes import ClassList, load_classes
from videoclip.data.manifest import MEDIA_SUFFIXES, Clip, write_manifest
from videoclip.data.protocol import CUSTOM, Protocol, SplitCard, load_protocol
from videoclip.errors import DataError
from videoclip.registry import unknown


@dataclass
class Made:
    """A manifest that was written, and what should be known about it.

    Attributes:
        clips: by split.
        missing: by split, ids of clips whose video file is not there. They are in the manifest all the same.
        protocol: what was checked; ``custom`` if nothing was.
        notes: what was not found.
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
) -> Made:
    """Read a data set's annotation files, find its videos, check it, and write the manifest.

    Args:
        reader: name of a file in this folder.
        annotations: folder of the official files, or one file.
        videos: folder, at any depth below which the video files lie; ``stem`` says what of a name counts.
        out: the manifest.
        protocol: a card of that data set, its usual one when not given; ``custom`` checks nothing.
        splits: only these.
        classes: a class list, see ``videoclip.data.classes``, for labels that are numbers; the protocol's when not
            given.
        group: a regular expression; what it finds in a clip's id, or its first bracket, is the clip's group.

    Raises:
        DataError: a file is missing or malformed, or a split is not what the protocol says.
    """
    annotations, folder = Path(annotations), Path(videos).resolve()
    for path in (annotations, folder):
        if not path.exists():
            raise DataError(f"{path}: there is no such file or folder.")
    card, checked = _card(reader, protocol), protocol != "custom"
    present, notes = _present(card, annotations, splits)
    try:
        clips = importlib.import_module(f"{__name__}.{reader}").read(annotations, present)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(
            f"{annotations}: is not as {reader} has it, or is cut off ({error}); fetch it again."
        ) from error
    clips = _grouped(_named(clips, _class_list(annotations, classes or card.classes)), group)
    for name in present:
        found = [clip for clip in clips if clip.split == name]
        captions = any(clip.captions for clip in found)
        if not captions and card.captions:
            notes.append(f"{name}: has no captions; {card.captions} comes from {card.origin(card.captions)}")
        if checked:
            card.check(name, found, annotations, captions)
    return _written(clips, folder, Path(out), card if checked else CUSTOM, notes)


def _class_list(annotations: Path, source: str) -> ClassList | None:
    """A class list by name, or an official file among the annotations; None where none is wanted."""
    return load_classes(find(annotations, source) or source) if source else None


def _named(clips: Sequence[Clip], classes: ClassList | None) -> list[Clip]:
    """Clips with labels as the class list writes them, in place of numbers or other spellings."""
    if classes is None:
        return list(clips)
    spelled = {label.casefold(): label for label in classes.labels}

    def label_of(clip: Clip) -> str:
        given = str(clip.label)
        if given.isdigit() and int(given) < len(classes):
            return classes.labels[int(given)]
        return spelled.get(given.casefold()) or classes.labels[classes.number(given, f"clip {clip.id!r}")]

    return [c if c.label is None else c.model_copy(update={"label": label_of(c)}) for c in clips]


def _grouped(clips: Sequence[Clip], pattern: str | None) -> list[Clip]:
    if pattern is None:
        return list(clips)
    found = [re.search(pattern, clip.id) for clip in clips]
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


def _written(clips: Sequence[Clip], folder: Path, out: Path, protocol: Protocol, notes: list[str]) -> Made:
    if not clips:
        raise DataError(f"{out}: nothing to write, no clip was read.")
    files: dict[str, Path] = {}
    for file in sorted(f for f in folder.rglob("*") if f.is_file() and f.suffix.lower() in MEDIA_SUFFIXES):
        files.setdefault(file.stem, file)
    made = Made({}, {}, protocol, notes)
    located = []
    for clip in clips:
        name = stem(str(clip.path))
        path, other = folder / clip.path, files.get(name) or files.get(name.removeprefix("v_"))
        if not path.exists() and other is not None:
            path = other
        elif not path.exists():
            made.missing.setdefault(clip.split, []).append(clip.id)
            path = path if path.suffix.lower() in MEDIA_SUFFIXES else path.with_name(f"{name}.mp4")
        located.append(clip.model_copy(update={"path": path}))
        made.clips.setdefault(clip.split, []).append(located[-1])
    write_manifest(located, out.resolve())
    return made
