"""What a clip's rows were made of, and whether that is still what the clip names now.

A clip is the same if it is the same stretch of the same file: path, size and modification time agree, or the content
does. An id alone says nothing: a file may be replaced under its name.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

from videoclip.data.manifest import Clip
from videoclip.data.remote import file_version, is_remote
from videoclip.errors import writing
from videoclip.files import to_json
from videoclip.store.shards import Record

CHANGES = "changes.jsonl"
BLOCK = 1 << 20


def source_notes(clip: Clip) -> dict[str, Any]:
    """Return what the index keeps of a clip's source: ``path``, ``stretch``, ``bytes`` and ``modified``.

    ``bytes`` and ``modified`` are None where the file is missing; of an address ``modified`` is the key by which its
    file system distinguishes versions.
    """
    size, modified = file_version(clip.path)
    path = str(clip.path) if is_remote(clip.path) else os.path.abspath(clip.path)
    return {"path": path, "stretch": [clip.start, clip.end], "bytes": size, "modified": modified}


def compare(
    clip: Clip, now: Mapping[str, Any], notes: Mapping[str, Any], seconds: Iterable[float]
) -> Literal["same", "moved", "changed"]:
    """Compare a clip with the source of its stored rows.

    Args:
        clip: as the manifest names it now.
        now: its ``source_notes``.
        notes: of the stored record; those of stores that an earlier version made lack the source.
        seconds: times of the stored frames.

    Returns:
        ``moved`` where the content is the same under another path or modification time.
    """
    if now["bytes"] is None:
        return "same"  # the file is missing: its rows are all there is
    if not _same_stretch(clip, notes, seconds):
        return "changed"
    if all(notes.get(name) == now[name] for name in ("path", "bytes", "modified")):
        return "same"
    if is_remote(clip.path) or notes.get("bytes", now["bytes"]) != now["bytes"]:
        return "changed"
    # Copied, touched, or cached by an earlier version: the content decides.
    return "moved" if sha256_of(Path(clip.path)) == notes.get("sha256") else "changed"


def is_outdated(clip: Clip, notes: Mapping[str, Any]) -> bool:
    """Whether stored rows are surely of another stretch or file than a clip names, without reading the file.

    Where the file is missing, as on a machine that has the store alone, the stretch decides.
    """
    if notes.get("stretch", [clip.start, clip.end]) != [clip.start, clip.end]:
        return True
    size, _ = (None, None) if is_remote(clip.path) else file_version(clip.path)
    return size is not None and notes.get("bytes", size) != size


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal digits."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            digest.update(block)
    return digest.hexdigest()


def vanished(records: Mapping[str, Record]) -> list[str]:
    """Return the keys of records whose video file no longer exists; addresses are not looked up.

    None on a machine that lacks even the folder that all files have in common: there the store is a copy without its
    videos.
    """
    paths = {key: str(record.notes.get("path", "")) for key, record in records.items()}
    local = {key: path for key, path in paths.items() if path and not is_remote(path)}
    if not local or not os.path.isdir(_common_folder(local.values())):
        return []
    return [key for key, path in local.items() if not os.path.exists(path)]


def append_changes(folder: Path, changes: Iterable[Mapping[str, Any]]) -> None:
    """Append lines to a store's table of changes: where clips were moved to, and which ones are forgotten.

    A line is about the record of its ``key`` and ``generation`` alone, so a clip that is cached again is not affected.

    Raises:
        StoreError: the table cannot be written.
    """
    # Each line begins with a line feed, since a kill may have left half of the line before it.
    text = "".join(f"\n{to_json(change)}\n" for change in changes)
    if text:
        with writing(folder), (folder / CHANGES).open("a", encoding="utf-8") as file:
            file.write(text)


def _same_stretch(clip: Clip, notes: Mapping[str, Any], seconds: Iterable[float]) -> bool:
    if "stretch" in notes:
        return notes["stretch"] == [clip.start, clip.end]
    first, last = clip.start or 0.0, float("inf") if clip.end is None else clip.end
    whole = clip.start is None and clip.end is None
    return whole or all(first - 1e-3 <= second < last + 1e-3 for second in seconds)


def _common_folder(paths: Iterable[str]) -> str:
    """Return the folder that all files have in common."""
    try:
        return os.path.commonpath([os.path.dirname(path) for path in paths])
    except ValueError:  # on Windows, files on several drives
        return os.sep
