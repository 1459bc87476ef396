"""Rows of annotation files joined to the video files they name."""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path, PurePosixPath

from videoclip.data.manifest import MEDIA_SUFFIXES, SOUND_SUFFIXES, scan
from videoclip.data.remote import is_remote


@dataclass(frozen=True)
class Joined:
    """The file of a row.

    Attributes:
        path: the file, or an address as it is; where there is no file, the place at which it would be looked for.
        found: whether the file exists and is the only one that fits.
        rivals: files that fit equally well, in place of a file.
        namesakes: files of that name in other folders, in place of a file.
    """

    path: Path | str
    found: bool
    rivals: tuple[Path, ...] = ()
    namesakes: tuple[Path, ...] = ()


def join(names: Sequence[str], folder: Path) -> list[Joined]:
    r"""Find the file of each row below a folder of videos.

    A file fits a row if its name is the same, with any video's suffix, and if the folders that the row names end as
    the file's folders do: a row of ``B/0.mp4`` is never ``A/0.mp4``, whatever is missing. ``test/B/0.mp4`` is not
    ``train/B/0.mp4`` either, but leading folders may be missing on one side, and those that all absolute rows share,
    written on another machine, do not count. Of several files that fit, the one that shares most folders with the row
    is taken, then the one whose whole name is the same; those that are still equal are rivals.

    Args:
        names: file names, ids, or paths with ``/`` or ``\``, relative or absolute, with or without a suffix.
        folder: videos at any depth.

    Raises:
        DataError: the folder cannot be read.
    """
    files: dict[str, list[Path]] = {}
    for file in scan(folder)[0]:
        files.setdefault(_same(file.stem), []).append(file)

    foreign = [_parts(name)[:-2] for name in names if _absolute(name)]
    shared = takewhile(lambda column: len(set(column)) == 1, zip(*foreign, strict=False))
    count = len(list(shared))
    return [_joined(name, count if _absolute(name) else 0, files, folder) for name in names]


def stem(name: str) -> str:
    """Return a file name without folder and without the suffix of a video, if it has one."""
    last = name.replace("\\", "/").rpartition("/")[2]
    return last[: -len(Path(last).suffix)] if Path(last).suffix.lower() in MEDIA_SUFFIXES else last.rstrip(".")


def _joined(name: str, foreign: int, files: Mapping[str, list[Path]], folder: Path) -> Joined:
    """Find the file of one row, whose first ``foreign`` folders need not exist here."""
    if is_remote(name):
        return Joined(name, True)
    if os.path.isfile(folder / name):  # unlike Path.is_file, False for names that no system takes
        return Joined(folder / name, True)

    *folders, last = _parts(name) or [name]
    # DiDeMo's lists end names in a full stop; ActivityNet's put v_ in front of what may be called without.
    spellings = (stem(last), last, stem(last).removeprefix("v_"))
    namesakes = next((files[_same(one)] for one in spellings if _same(one) in files), [])
    fits = {file: _fit(file, last, folders, foreign, folder) for file in namesakes}
    best = max(filter(None, fits.values()), default=None)
    chosen = [file for file, fit in fits.items() if best and fit == best]
    if len(chosen) == 1:
        return Joined(chosen[0], True)

    # Without a suffix where several files fit: with one, the path could be one of them.
    whole = chosen or Path(last).suffix.lower() in MEDIA_SUFFIXES
    place = folder.joinpath(*folders, last if whole else f"{stem(last)}.mp4")
    return Joined(place, False, tuple(chosen), tuple(namesakes))


def _fit(file: Path, last: str, folders: Sequence[str], foreign: int, folder: Path) -> tuple[int, ...] | None:
    """Rank how well a file of the right name fits a row, in numbers that compare; None where it does not fit."""
    below = len(file.relative_to(folder).parts) - 1
    pairs = zip(reversed(file.parent.parts), reversed(folders), strict=False)
    shared = next((n for n, (ours, theirs) in enumerate(pairs) if _same(ours) != _same(theirs)), None)
    if shared is None:
        shared = min(len(file.parent.parts), len(folders))
    if folders and not (shared and shared >= min(len(folders) - foreign, below)):
        return None
    same_place = below == len(folders)
    return shared, same_place, _same(file.name) == _same(last), file.suffix.lower() not in SOUND_SUFFIXES


def _parts(name: str) -> list[str]:
    """Split a path of any system into folders and file name, without drive, root and dots."""
    plain = re.sub(r"^[A-Za-z]:(?=[\\/])", "", name).replace("\\", "/")
    return [part for part in PurePosixPath(plain).parts if part not in ("/", "//", ".", "..")]


def _absolute(name: str) -> bool:
    return re.match(r"[\\/]|[A-Za-z]:[\\/]", name) is not None


def _same(name: str) -> str:
    """Return a name as it is compared: accents may be letters of their own or not, as file systems differ in this."""
    return unicodedata.normalize("NFC", name)
