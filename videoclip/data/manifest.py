"""The manifest: the clips of a data set, one JSON object a line, or simply a folder of videos.

A line is ``{"id": "a", "path": "videos/a.mp4", "captions": ["..."], "split": "train", "start": 0, "end": 9.5}``.
Only ``path`` is required: it is relative to the manifest's folder. ``id`` is the path when absent; ``start`` and
``end``, in seconds or as ``m:ss`` or ``h:mm:ss``, make a clip of a stretch of the file; ``label`` names a class,
``group`` what clips share. A path may also be an address that fsspec can read, such as ``s3://bucket/a.mp4``.

File names that are not valid UTF-8 keep their bytes in ``path``; ids and all other texts have them escaped.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from videoclip.data.remote import find_files, is_remote
from videoclip.errors import DataError, printable
from videoclip.files import read_lines, reading, replace_text, to_json
from videoclip.registry import unknown

# What a folder scan offers to the decoder. Sound files are among them so that they are listed with a reason.
SOUND_NAMES = "aac flac m4a mp3 wav"
MEDIA_NAMES = f"""
    3g2 3gp avi divx f4v flv gif h264 hevc m2ts m2v m4v mjpeg mkv mov mp4 mpe mpeg mpg mts mxf ogg ogv qt rm rmvb ts vob
    webm wmv y4m {SOUND_NAMES}
"""
SOUND_SUFFIXES = {f".{name}" for name in SOUND_NAMES.split()}
MEDIA_SUFFIXES = {f".{name}" for name in MEDIA_NAMES.split()}

TIME = "a time of at least 0 in seconds, as m:ss or as h:mm:ss"
EXPECTED = {
    "id": "text",
    "path": "the name of a file",
    "captions": "a list of texts",
    "split": "text",
    "start": TIME,
    "end": TIME,
    "label": "text",
    "group": "text",
}

Seconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class Clip(BaseModel):
    """A video file, or a stretch of one, with what is said about it.

    Attributes:
        id: unique within the manifest.
        path: the file; a string only for an address such as ``s3://bucket/a.mp4``.
        captions: sentences about the clip.
        split: which part of the data set it belongs to.
        start, end: the stretch in seconds, the whole file where None.
        label: its class, for recognition.
        group: what it shares with other clips, such as a performer or the video it was cut from; clips of one group
            stay on one side when some are held out.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    id: str = ""
    path: Path | str
    captions: tuple[str, ...] = ()
    split: str = ""
    start: Seconds | None = None
    end: Annotated[Seconds, Field(gt=0)] | None = None
    label: str | None = None
    group: str | None = None

    @field_validator("path", mode="before")
    @classmethod
    def _address_or_path(cls, value: object) -> object:
        if isinstance(value, str) and (not value or "\0" in value):
            raise ValueError("no file has this name")
        return Path(value) if isinstance(value, str) and not is_remote(value) else value

    @field_validator("id", "split", "label", "group", mode="before")
    @classmethod
    def _escaped(cls, value: object) -> object:
        return encodable(value) if isinstance(value, str) else value

    @field_validator("captions", mode="before")
    @classmethod
    def _all_escaped(cls, value: object) -> object:
        return [cls._escaped(one) for one in value] if isinstance(value, list | tuple) else value

    @field_validator("start", "end", mode="before")
    @classmethod
    def _clock(cls, value: object) -> object:
        return seconds_of(value) if isinstance(value, str) else value

    @model_validator(mode="after")
    def _ends_after_start(self) -> Clip:
        if self.end is not None and self.end <= (self.start or 0):
            raise ValueError(f"end {self.end} is not after start {self.start or 0}")
        return self


def encodable(text: str) -> str:
    """Return text that can be written as UTF-8: lone surrogates, as in file names of other encodings, are escaped."""
    return text.encode("utf-8", "backslashreplace").decode()


def seconds_of(text: str) -> float:
    """Return the seconds that ``12.5``, ``m:ss`` or ``h:mm:ss.fff`` stand for.

    Raises:
        ValueError: the text is not a time.
    """
    clock = re.fullmatch(r"(?:([0-9]{1,9}):(?=[0-5]?[0-9]:))?([0-9]{1,9}):([0-5]?[0-9](?:\.[0-9]*)?)", text.strip())
    if clock:
        return 3600 * int(clock[1] or 0) + 60 * int(clock[2]) + float(clock[3])
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"{text!r} is not {TIME}") from None


@contextlib.contextmanager
def locating(where: str) -> Iterator[None]:
    """Turn what is wrong with a line or row of a user's file into one sentence that begins with its place.

    Args:
        where: file and line or row.

    Raises:
        DataError: in place of an error of structure or of a value.
    """
    try:
        yield
    except ValidationError as error:
        raise DataError(f"{where}: {_mistake(error)}.") from error
    except json.JSONDecodeError as error:
        raise DataError(f"{where}: is not JSON ({error.msg} at character {error.pos + 1}).") from error
    except KeyError as error:
        raise DataError(f"{where}: has no {error}.") from error
    except RecursionError as error:
        raise DataError(f"{where}: is nested too deep.") from error
    except (ValueError, TypeError, AttributeError, OverflowError) as error:
        raise DataError(f"{where}: {printable(str(error))[:200]}.") from error


def read_manifest(path: str | Path) -> list[Clip]:
    """Read a manifest file, or list the videos below a folder, or below an address, by name.

    Links to folders and files are followed, each folder once; ``passed_over`` counts what is not taken.

    Raises:
        DataError: the path is missing or not a manifest, a line is malformed, or an id is listed twice.
    """
    if is_remote(path):
        return _clips_of_address(str(path))
    path = Path(path)
    if os.path.isdir(path):  # unlike Path.is_dir, False for names that no system takes
        return _unique(_clips_of_folder(path), path)
    if not os.path.isfile(path):
        raise DataError(f"{path}: there is no such manifest or folder of videos.")
    if path.suffix.lower() in MEDIA_SUFFIXES:
        raise DataError(f"{path}: is a video, not a manifest. Name its folder, or a manifest that lists it.")

    lines = enumerate(read_lines(path), 1)
    return _unique([_clip(line, number, path) for number, line in lines if line.strip()], path)


def write_manifest(clips: Iterable[Clip], path: str | Path) -> None:
    """Write clips as a manifest, their paths relative to its folder where they lie below it.

    Raises:
        VideoclipError: the file cannot be written.
    """
    folder = Path(path).absolute().parent
    lines = []
    for clip in clips:
        values = clip.model_dump(exclude_defaults=True)
        if isinstance(clip.path, Path):
            # A relative path is relative to the working directory, which need not be the manifest's folder.
            file = clip.path.absolute()
            values["path"] = (file.relative_to(folder) if file.is_relative_to(folder) else file).as_posix()
        lines.append(to_json(values) + "\n")
    replace_text(Path(path), "".join(lines))


def of_split(clips: Sequence[Clip], split: str, source: str | Path) -> list[Clip]:
    """The clips of a split that have captions.

    Raises:
        DataError: there is none.
    """
    chosen = [clip for clip in clips if clip.split == split and clip.captions]
    if not chosen:
        known = ", ".join(sorted({clip.split for clip in clips})) or "none"
        raise DataError(f"{source}: no clip with captions in split {split!r}; its splits: {known}.")
    return chosen


def labelled(clips: Sequence[Clip], split: str | None, source: str | Path) -> list[Clip]:
    """The clips that have a label, of a split, or of all.

    Raises:
        DataError: there is none.
    """
    chosen = [clip for clip in clips if clip.label is not None and split in (None, clip.split)]
    if not chosen:
        known = ", ".join(sorted({clip.split for clip in clips if clip.label is not None})) or "none"
        where = "" if split is None else f" in split {split!r}; splits with labels: {known}"
        raise DataError(f"{source}: no clip with a label{where}.")
    return chosen


def passed_over(folder: str | Path) -> Counter[str]:
    """Count what a scan of a folder does not take, by suffix or reason: other files, dead links, repeated folders."""
    return scan(Path(folder))[1]


def scan(folder: Path) -> tuple[list[Path], Counter[str]]:
    """Find the video files below a folder, by their names, and count everything else.

    Links are followed. A folder that several of them lead to, or that contains itself, is listed once: under its own
    name where it has one below ``folder``.

    Raises:
        DataError: the folder cannot be read.
    """
    with reading(folder, "a folder of videos"):
        os.scandir(folder).close()

    files: list[Path] = []
    others = Counter[str]()
    visited: set[tuple[int, int]] = set()
    real, linked = [folder], list[Path]()
    while real or linked:
        place = real.pop() if real else linked.pop(0)  # links last, so that a folder keeps its own name
        entries = _entries(place, visited)
        if isinstance(entries, str):
            others[entries] += 1
            continue
        for entry in entries:
            if kind := _kind(entry):
                others[kind] += 1
            elif entry.is_dir():
                (linked if entry.is_symlink() else real).append(place / entry.name)
            else:
                files.append(place / entry.name)
    return sorted(files), others


def _entries(place: Path, visited: set[tuple[int, int]]) -> list[os.DirEntry[str]] | str:
    """Return the entries of a folder by name, or say why it is not taken."""
    try:
        status = place.stat()
        if (status.st_dev, status.st_ino) in visited:
            return "(folder listed already)"
        visited.add((status.st_dev, status.st_ino))
        with os.scandir(place) as entries:
            return sorted(entries, key=lambda entry: entry.name)
    except OSError:
        return "(folder that cannot be read)"


def _kind(entry: os.DirEntry[str]) -> str:
    """Say why a directory entry is neither a folder nor a video; empty where it is one of them."""
    suffix = Path(entry.name).suffix.lower()
    try:
        if entry.is_dir() or (suffix in MEDIA_SUFFIXES and entry.is_file()):
            return ""
    except OSError:  # a link to itself
        return "(dead link)"
    if entry.is_symlink() and not os.path.exists(entry.path):
        return "(dead link)"
    return "(not a file)" if suffix in MEDIA_SUFFIXES else suffix or "(no suffix)"


def _unique(clips: list[Clip], source: Path) -> list[Clip]:
    twice = [i for i, count in Counter(clip.id for clip in clips).items() if count > 1]
    if twice:
        raise DataError(
            f"{source}: {len(twice)} id(s) are listed more than once, the first is {twice[0]!r}; ids must be unique."
        )
    return clips


def _clips_of_folder(folder: Path) -> list[Clip]:
    files, others = scan(folder)
    if not files:
        found = ", ".join(f"{count} {name}" for name, count in sorted(others.items()))
        raise DataError(f"{folder}: contains no video file" + (f" (found {printable(found)})." if found else "."))
    return [Clip(id=f.relative_to(folder).as_posix(), path=f) for f in files]


def _clips_of_address(address: str) -> list[Clip]:
    files = {name: f for name, f in find_files(address).items() if Path(name).suffix.lower() in MEDIA_SUFFIXES}
    if not files:
        raise DataError(f"{address}: contains no video file.")
    return [Clip(id=name, path=f) for name, f in files.items()]


def _clip(line: str, number: int, manifest: Path) -> Clip:
    remedy = (
        'Each line must be a JSON object with at least "path"; `videoclip manifest csv` makes a manifest of a table, '
        "`videoclip manifest labels` of a list."
    )
    try:
        with locating(f"{manifest}, line {number}"):
            values = json.loads(line)
            if not isinstance(values, dict):
                raise TypeError("is not a JSON object")
            given = values["path"]
            if isinstance(given, str) and given and not is_remote(given):
                values["path"] = manifest.parent / given
            return Clip(**{**values, "id": values.get("id") or given})
    except DataError as error:
        raise DataError(f"{error} {remedy}") from error


def _mistake(error: ValidationError) -> str:
    """Say in one sentence, without its full stop, what the first problem of a clip is: key, value, what is expected."""
    problems = error.errors(include_url=False)
    first = next((one for one in problems if one["loc"][:1] == ("path",)), problems[0])  # an id may come from the path
    key = str(first["loc"][0]) if first["loc"] else ""
    if first["type"] == "extra_forbidden":
        return unknown("clip", key, list(EXPECTED), "no such key")
    if first["type"] == "missing":
        return f"has no {key!r}"
    if not key:
        return str(first["msg"]).removeprefix("Value error, ")
    value = printable(repr(first["input"]))
    return f"{key} {value[:80]}{'...' * (len(value) > 80)} is not {EXPECTED[key]}"
