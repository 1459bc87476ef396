"""The manifest: the clips of a data set, one JSON object a line, or simply a folder of videos.

A line is ``{"id": "a", "path": "videos/a.mp4", "captions": ["..."], "split": "train", "start": 0, "end": 9.5}``.
Only ``path`` is required: it is relative to the manifest's folder. ``id`` is the path when absent; ``start`` and
``end``, in seconds, make a clip of a stretch of the file; ``label`` names a class, ``group`` what
clips share. A path may also be an address that
fsspec can read, such as ``s3://bucket/a.mp4``.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from videoclip.data.remote import find_files, is_remote
from videoclip.errors import DataError

# What a folder scan offers to the decoder. Sound files are among them so that they are listed with a reason.
MEDIA_NAMES = """
    3g2 3gp avi divx f4v flv gif h264 hevc m2ts m2v m4v mjpeg mkv mov mp4 mpe mpeg mpg mts mxf ogg ogv qt rm rmvb ts vob
    webm wmv y4m aac flac m4a mp3 wav
"""
MEDIA_SUFFIXES = {f".{name}" for name in MEDIA_NAMES.split()}


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
    start: Annotated[float, Field(ge=0)] | None = None
    end: Annotated[float, Field(gt=0)] | None = None
    label: str | None = None
    group: str | None = None

    @field_validator("path", mode="before")
    @classmethod
    def _address_or_path(cls, value: object) -> object:
        return Path(value) if isinstance(value, str) and not is_remote(value) else value

    @model_validator(mode="after")
    def _ends_after_start(self) -> Clip:
        if self.end is not None and self.end <= (self.start or 0):
            raise ValueError(f"end {self.end} is not after start {self.start or 0}")
        return self


def read_manifest(path: str | Path) -> list[Clip]:
    """Read a manifest file, or list the videos below a folder, or below an address, by name.

    Raises:
        DataError: the path is missing, a line is malformed, or an id stands twice.
    """
    if is_remote(path):
        return _clips_of_address(str(path))
    path = Path(path)
    if path.is_dir():
        return _clips_of_folder(path)
    if not path.is_file():
        raise DataError(f"{path}: there is no such manifest or folder of videos.")
    clips = [_clip(line, number, path) for number, line in enumerate(path.read_text().splitlines(), 1) if line.strip()]
    twice = [i for i, count in Counter(clip.id for clip in clips).items() if count > 1]
    if twice:
        raise DataError(
            f"{path}: {len(twice)} id(s) stand more than once, the first is {twice[0]!r}; ids must be unique."
        )
    return clips


def write_manifest(clips: Iterable[Clip], path: str | Path) -> None:
    """Write clips as a manifest, their paths relative to its folder where they lie below it."""
    path = Path(path)
    lines = []
    for clip in clips:
        values = clip.model_dump(mode="json", exclude_defaults=True)
        if isinstance(clip.path, Path) and clip.path.is_relative_to(path.parent):
            values["path"] = clip.path.relative_to(path.parent).as_posix()
        lines.append(json.dumps(values, ensure_ascii=False) + "\n")
    path.write_text("".join(lines))


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
    """How many files below a folder a scan passes over, by suffix: what is no video by its name."""
    files = (f for f in Path(folder).rglob("*") if f.is_file())
    return Counter(f.suffix.lower() or "(no suffix)" for f in files if f.suffix.lower() not in MEDIA_SUFFIXES)


def _clips_of_folder(folder: Path) -> list[Clip]:
    files = sorted(f for f in folder.rglob("*") if f.suffix.lower() in MEDIA_SUFFIXES and f.is_file())
    if not files:
        raise DataError(f"{folder}: holds no video file.")
    return [Clip(id=f.relative_to(folder).as_posix(), path=f) for f in files]


def _clips_of_address(address: str) -> list[Clip]:
    files = {name: f for name, f in find_files(address).items() if Path(name).suffix.lower() in MEDIA_SUFFIXES}
    if not files:
        raise DataError(f"{address}: holds no video file.")
    return [Clip(id=name, path=f) for name, f in files.items()]


def _clip(line: str, number: int, manifest: Path) -> Clip:
    try:
        values = json.loads(line)
        given = str(values["path"])
        return Clip(**{"id": given, **values, "path": given if is_remote(given) else manifest.parent / given})
    except (ValueError, KeyError, TypeError) as error:
        first = error.errors()[0] if isinstance(error, ValidationError) else None
        what = f"{'.'.join(map(str, first['loc']))}: {first['msg']}" if first else f"{error}"
        raise DataError(
            f"{manifest}, line {number}: is no clip ({what}); a line is a JSON object with at least path."
        ) from error
