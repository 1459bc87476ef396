"""Files that lie elsewhere, by fsspec address: videos to read, stores to push and to read back."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import fsspec

from videoclip.errors import (
    DataError,
    DecodeError,
    StoreError,
    VideoclipError,
    printable,
)
from videoclip.files import (
    hash_of,
    make_folder,
    read_json,
    replace_text,
    to_json,
)
from videoclip.scratch import scratch_folder

FETCHED = "fetched.json"  # in a local copy: the version at the address of each file


def is_remote(path: str | Path) -> bool:
    """Whether a path is an address such as ``s3://bucket/a.mp4``."""
    return isinstance(path, str) and "://" in path


def file_version(path: str | Path) -> tuple[int | None, str | None]:
    """Return size and version of a file: its modification time in nanoseconds, or its file system's key for an address.

    Both are None where the file is missing or cannot be asked for.
    """
    if not is_remote(path):
        try:
            status = os.stat(path)
        except (OSError, ValueError):  # a name with a null byte
            return None, None
        return status.st_size, str(status.st_mtime_ns)
    try:
        files = _filesystem(path)
        return int(files.info(str(path))["size"]), str(files.ukey(str(path)))
    except Exception:  # every file system raises errors of its own
        return None, None


@contextlib.contextmanager
def local_file(path: str | Path) -> Iterator[Path]:
    """A video as a local file: itself, or a copy that lives as long as the block.

    Raises:
        DecodeError: an address cannot be read.
    """
    if not is_remote(path):
        yield Path(path)
        return
    with tempfile.TemporaryDirectory(dir=scratch_folder()) as folder:
        copy = Path(folder) / Path(str(path)).name
        try:
            _filesystem(path).get_file(str(path), str(copy))
        except Exception as error:  # every file system raises errors of its own
            raise DecodeError("open", f"{path}: cannot be fetched ({type(error).__name__}: {error}).") from error
        try:
            yield copy
        except DecodeError as error:  # the copy's name would tell nobody anything
            raise DecodeError(error.stage, str(error).replace(str(copy), str(path))) from error


def local_copy(folder: str | Path) -> Path:
    """Return a store as a local folder: itself, or a copy below the cache folder, brought up to date.

    A file is fetched again when its version at the address is another one, whatever its size; what is gone there is
    removed from the copy.

    Raises:
        StoreError: an address cannot be read.
    """
    if not is_remote(folder):
        return Path(folder)
    address = str(folder).rstrip("/")
    root = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
    copy = make_folder(root / "videoclip" / "stores" / hash_of([address]))
    table = copy / FETCHED
    with _asking(address, "fetched"):
        known = read_json(table, StoreError) if table.exists() else {}
        files, entries = _entries(address)
        versions = {name: str(files.ukey(entry["name"])) for name, entry in entries.items()}
        for name in sorted(set(os.listdir(copy)) - set(entries) - {FETCHED}):
            (copy / name).unlink()
        # Indexes come last: a line must never be there before its rows.
        for name in sorted(entries, key=lambda name: name.endswith(".idx")):
            if known.get(name) != versions[name] or not (copy / name).exists():
                temporary = copy / f"{name}.part"
                files.get_file(entries[name]["name"], str(temporary))
                temporary.replace(copy / name)
        replace_text(table, to_json(versions))
    return copy


def push(files: Sequence[Path], address: str, known: Mapping[str, Any]) -> dict[str, Any]:
    """Copy files to an address in the order given, but for those that lie there unchanged.

    Args:
        files: on this machine.
        address: a folder.
        known: what an earlier call returned: each file's size and time here, and its version there. Sizes alone do
            not tell files apart: shards of two stores often have the same.

    Returns:
        ``known`` with the files copied now.

    Raises:
        StoreError: the address cannot be written; the files here are untouched.
    """
    known = dict(known)
    with _asking(address, "written", " The store here is whole: push it again."):
        there = _filesystem(address)
        there.makedirs(address, exist_ok=True)
        for file in files:
            copy = f"{address.rstrip('/')}/{file.name}"
            here = list(file_version(file))
            if there.exists(copy) and known.get(file.name) == [*here, str(there.ukey(copy))]:
                continue
            there.put_file(str(file), copy)
            known[file.name] = [*here, str(there.ukey(copy))]
    return known


def versions_at(address: str) -> dict[str, str]:
    """Return the version of each file in a folder at an address, by name; empty where there is no such folder.

    Raises:
        StoreError: the address cannot be read.
    """
    with _asking(address, "read"):
        if not _filesystem(address).exists(address):
            return {}
        files, entries = _entries(address)
        return {name: str(files.ukey(entry["name"])) for name, entry in entries.items()}


def read_bytes(address: str) -> bytes:
    """Return the content of a file at an address.

    Raises:
        StoreError: it cannot be read.
    """
    with _asking(address, "read"):
        return bytes(_filesystem(address).cat_file(address))


def find_files(address: str) -> dict[str, str]:
    """All files below an address: their paths relative to it, and their own addresses.

    Raises:
        DataError: it cannot be read.
    """
    try:
        files, root = fsspec.core.url_to_fs(address)
        found = sorted(files.find(root))
        return {name.removeprefix(root).lstrip("/"): files.unstrip_protocol(name) for name in found}
    except Exception as error:  # as above
        raise DataError(f"{address}: cannot be listed ({type(error).__name__}: {error}).") from error


@contextlib.contextmanager
def _asking(address: str, done: str, remedy: str = "") -> Iterator[None]:
    """Turn the errors of a file system, of which every one raises its own, into one sentence."""
    try:
        yield
    except VideoclipError:
        raise
    except Exception as error:
        what = printable(f"{type(error).__name__}: {error}")
        raise StoreError(f"{address}: cannot be {done} ({what}).{remedy}") from error


def _filesystem(address: str | Path) -> Any:
    return fsspec.core.url_to_fs(str(address))[0]


def _entries(address: str) -> tuple[Any, dict[str, Any]]:
    """Return the file system of an address, and what it says of each file there, by name."""
    files = _filesystem(address)
    files.invalidate_cache()  # a listing from before may be out of date
    found = [entry for entry in files.ls(address, detail=True) if entry["type"] == "file"]
    return files, {entry["name"].rsplit("/", 1)[-1]: entry for entry in found}
