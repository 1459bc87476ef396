"""The store's files: append-only shards that survive a kill at any moment.

A shard is ``NAME.npy``, rows (N, D) in one dtype, and ``NAME.idx``, a JSON line for each record. Rows are written and
synced before the line that makes the record exist, so rows without a line are leftovers of an interrupted run: a
writer cuts them off, a reader never sees them.
"""

from __future__ import annotations

import io
import json
import os
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from videoclip.errors import StoreError

Array = np.ndarray
_sync = getattr(os, "fdatasync", os.fsync)  # fdatasync, the cheaper one, is missing on macOS and Windows


@dataclass(frozen=True)
class Record:
    """Where a key's rows lie, and what was noted with them."""

    key: str
    shard: Path
    row: int
    rows: int
    crc32: int
    notes: dict[str, Any]


class ShardWriter:
    """Appends records to one shard; what was added exists from the next ``commit`` on.

    Args:
        folder: the store.
        name: the shard's name without suffix; an existing shard is cut back to its last committed record.
        width: D.
        dtype: of the rows.
    """

    def __init__(self, folder: Path, name: str, width: int, dtype: str) -> None:
        self._width, self._dtype = width, np.dtype(dtype)
        data, index = folder / f"{name}.npy", folder / f"{name}.idx"
        committed = list(read_index(index)) if index.exists() else []
        self._rows = sum(record.rows for record in committed)
        header = npy_header(0, width, self._dtype)
        _cut(data, len(header) + self._rows * width * self._dtype.itemsize)
        _cut(index, sum(len(_line(record)) for record in committed))
        self._data, self._index = data.open("r+b"), index.open("ab")
        self._data.write(npy_header(self._rows, width, self._dtype))
        self._data.seek(0, os.SEEK_END)
        self._shard, self._pending = data, list[Record]()

    def add(self, key: str, rows: Array, **notes: Any) -> None:
        """Append rows (N, D) under a key, with anything JSON can hold as notes."""
        content = np.ascontiguousarray(rows, self._dtype).tobytes()
        self._data.write(content)
        self._pending.append(Record(key, self._shard, self._rows, len(rows), zlib.crc32(content), notes))
        self._rows += len(rows)

    def commit(self) -> None:
        """Make everything added so far exist, on disk."""
        if not self._pending:
            return
        self._data.flush()
        _sync(self._data.fileno())
        self._index.write(b"".join(_line(record) for record in self._pending))
        self._index.flush()
        _sync(self._index.fileno())
        self._pending.clear()

    def close(self) -> None:
        """Commit, and write the final shape into the .npy header so that numpy.load reads the shard too."""
        self.commit()
        self._data.seek(0)
        self._data.write(npy_header(self._rows, self._width, self._dtype))
        self._data.close()
        self._index.close()

    def __enter__(self) -> ShardWriter:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def read_index(index: Path) -> Iterator[Record]:
    """The committed records of a shard; a last line without its end belongs to an interrupted write and is left out.

    Raises:
        StoreError: a line in the middle cannot be read.
    """
    for number, line in enumerate(index.read_bytes().splitlines(keepends=True), 1):
        if not line.endswith(b"\n"):
            return
        try:
            values = json.loads(line)
            key, row, rows, crc32 = (values.pop(name) for name in ("key", "row", "rows", "crc32"))
        except (ValueError, KeyError) as error:
            raise StoreError(
                f"{index}, line {number}: is damaged; delete the shard's two files and cache again."
            ) from error
        yield Record(key, index.with_suffix(".npy"), row, rows, crc32, values)


def open_rows(shard: Path) -> Array:
    """Memory map (N, D) of everything a shard's file holds; only rows named by the index are valid."""
    with shard.open("rb") as file:
        version = np.lib.format.read_magic(file)
        if version != (1, 0):
            raise StoreError(f"{shard}: is no shard of this store.")
        (_, width), _, dtype = np.lib.format.read_array_header_1_0(file)
        offset = file.tell()
    rows = (shard.stat().st_size - offset) // (width * dtype.itemsize)
    return np.memmap(shard, dtype, "r", offset, (rows, width)) if rows else np.zeros((0, width), dtype)


def npy_header(rows: int, width: int, dtype: np.dtype[Any]) -> bytes:
    """The header of a .npy file; numpy pads it so that its length does not depend on ``rows``."""
    buffer = io.BytesIO()
    description = {
        "descr": np.lib.format.dtype_to_descr(dtype),
        "fortran_order": False,
        "shape": (rows, width),
    }
    np.lib.format.write_array_header_1_0(buffer, description)
    return buffer.getvalue()


def _line(record: Record) -> bytes:
    values = {
        "key": record.key,
        "row": record.row,
        "rows": record.rows,
        "crc32": record.crc32,
        **record.notes,
    }
    return json.dumps(values, ensure_ascii=False).encode() + b"\n"


def _cut(path: Path, length: int) -> None:
    """Create a file if need be and cut it to ``length`` bytes; a shorter file than that has lost data."""
    with path.open("ab") as file:
        if 0 < file.tell() < length:
            raise StoreError(f"{path}: is shorter than its index says; delete the shard's two files and cache again.")
        file.truncate(length)
