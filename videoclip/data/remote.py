"""Files that lie elsewhere, by fsspec address: videos to read, stores to push and to read back."""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec

from videoclip.errors import DataError, DecodeError, StoreError
from videoclip.files import make_folder


def is_remote(path: str | Path) -> bool:
    """Whether a path is an address such as ``s3://bucket/a.mp4``."""
    return isinstance(path, str) and "://" in path


@contextlib.contextmanager
def local_file(path: str | Path) -> Iterator[Path]:
    """A video as a local file: itself, or a copy that lives as long as the block.

    Raises:
        DecodeError: an address cannot be read.
    """
    if not is_remote(path):
        yield Path(path)
        return
    with tempfile.TemporaryDirectory(prefix="videoclip-") as folder:
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
    """A store as a local folder: itself, or a copy below the cache folder, brought up to date.

    Raises:
        StoreError: an address cannot be read.
    """
    if not is_remote(folder):
        return Path(folder)
    address = str(folder).rstrip("/")
    root = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
    copy = root / "videoclip" / "stores" / hashlib.sha256(address.encode()).hexdigest()[:16]
    make_folder(copy)
    try:
        files = _filesystem(address)
        # Indexes come last: a line must never be there before its rows.
        found = sorted(files.ls(address, detail=True), key=lambda f: f["name"].endswith(".idx"))
        for entry in found:
            _fetch(files, entry, copy)
    except Exception as error:  # as above
        raise StoreError(f"{address}: cannot be fetched ({type(error).__name__}: {error}).") from error
    return copy


def push(files: list[Path], address: str) -> None:
    """Copy files to an address in the order given, but for those that it has in the same size.

    Raises:
        StoreError: the address cannot be written; the files here are untouched.
    """
    try:
        there = _filesystem(address)
        there.makedirs(address, exist_ok=True)
        for file in files:
            copy = f"{address.rstrip('/')}/{file.name}"
            if not there.exists(copy) or there.size(copy) != file.stat().st_size:
                there.put_file(str(file), copy)
    except Exception as error:  # as above
        raise StoreError(
            f"{address}: cannot be written ({type(error).__name__}: {error}); the store here is whole, push again."
        ) from error


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


def _filesystem(address: str | Path) -> Any:
    return fsspec.core.url_to_fs(str(address))[0]


def _fetch(files: Any, entry: dict[str, Any], folder: Path) -> None:
    copy = folder / entry["name"].rsplit("/", 1)[-1]
    if entry["type"] != "file" or (copy.exists() and copy.stat().st_size == entry["size"]):
        return
    temporary = copy.with_suffix(".part")
    files.get_file(entry["name"], str(temporary))
    temporary.replace(copy)
