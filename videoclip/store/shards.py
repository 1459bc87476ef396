"""The store's files: append-only shards that survive a kill at any moment.

A shard is ``NAME.idx``, a JSON line for each record, beside one ``NAME.TENSOR.npy`` for each tensor, rows (N, ...) in
one dtype. Rows are written and synced before the line that makes the record exist, so rows without a line are leftovers
of an interrupted run: a writer cuts them off, a reader never sees them.
"""

from __future__ import annotations

import contextlib
import io
import json
import mmap
import os
import sys
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from videoclip.errors import StoreError, writing
from videoclip.files import reading, to_json

if sys.platform != "win32":
    import fcntl

Array = np.ndarray
BLOCK = 4 << 20
LOST = "Copy the file again, or delete it: `videoclip cache` then makes its clips again."
_sync = getattr(os, "fdatasync", os.fsync)  # fdatasync, the cheaper one, is missing on macOS and Windows


@dataclass(frozen=True)
class Extent:
    """Rows ``row`` to ``row + rows`` of a tensor's file, and the checksum of their bytes."""

    row: int
    rows: int
    crc32: int


@dataclass(frozen=True)
class Record:
    """Where a key's rows lie in each tensor of a shard, and what was noted with them."""

    key: str
    index: Path
    tensors: dict[str, Extent]
    notes: dict[str, Any]

    @property
    def generation(self) -> int:
        """How often the key's rows were replaced before these; the record of the highest generation counts."""
        return int(self.notes.get("generation", 0))

    def within(self, present: Mapping[str, int]) -> bool:
        """Whether the files that have ``present`` rows of each tensor hold all rows of this record."""
        return all(e.row + e.rows <= present.get(name, 0) for name, e in self.tensors.items())

    def file(self, tensor: str) -> Path:
        """The .npy file of a tensor."""
        return tensor_file(self.index, tensor)


class ShardWriter:
    """Appends records to the shards of one writer; what was added exists from the next ``commit`` on.

    The writer's last shard is cut back to its last committed record and continued. A shard that another living process
    holds, or that has lost committed rows, is left alone and a new one begun.

    Args:
        folder: the store.
        kind: ``clips`` or ``texts``.
        tensors: name -> shape of one row.
        dtype: of the rows; of each tensor, where they differ.
        writer: number of this writer; no two at a time may share it on different machines.
        shard_bytes: after which a shard is closed and the next one begun.

    Attributes:
        finished: index files of the shards that this writer has closed, whole.

    Raises:
        StoreError: a file cannot be written.
    """

    def __init__(
        self,
        folder: Path,
        kind: str,
        tensors: Mapping[str, Sequence[int]],
        dtype: str | Callable[[str], str],
        writer: int = 0,
        shard_bytes: int = 256 << 20,
    ) -> None:
        self._folder, self._name, self._shard_bytes = folder, f"{kind}-{writer:04d}", shard_bytes
        self._shapes = {name: tuple(shape) for name, shape in tensors.items()}
        self._dtypes = {name: np.dtype(dtype if isinstance(dtype, str) else dtype(name)) for name in tensors}
        self.finished: list[Path] = []
        existing = sorted(folder.glob(f"{self._name}-*.idx"))
        self._number = int(existing[-1].stem.rsplit("-", 1)[1]) if existing else 0
        self._open()

    def add(self, key: str, rows: Mapping[str, Array | BinaryIO], **notes: Any) -> None:
        """Append a record.

        Args:
            key: unique in the store.
            rows: each tensor's rows (N, ...), or an open file with their bytes.
            notes: anything JSON can hold.
        """
        if sum(file.tell() for file in self._files.values()) >= self._shard_bytes:
            self.close()
            self._number += 1
            self._open()
        with writing(self._folder):
            extents = {name: self._append(name, content) for name, content in rows.items()}
        self._pending.append(Record(key, self.index, extents, notes))

    def commit(self) -> None:
        """Make everything added so far exist, on disk."""
        if not self._pending:
            return
        with writing(self._folder):
            for file in self._files.values():
                file.flush()
                _sync(file.fileno())
            self._lines.write(b"".join(_line(record) for record in self._pending))
            self._lines.flush()
            _sync(self._lines.fileno())
        self._pending.clear()

    def close(self) -> None:
        """Commit, and write the final shapes into the .npy headers so that numpy.load reads the shard too."""
        self.commit()
        with writing(self._folder):
            for name, file in self._files.items():
                file.seek(0)
                file.write(npy_header(self._rows[name], self._shapes[name], self._dtypes[name]))
        self._release()
        self.finished.append(self.index)

    def __enter__(self) -> ShardWriter:
        return self

    def __exit__(self, kind: object, error: object, traceback: object) -> None:
        if error is None or isinstance(error, KeyboardInterrupt | GeneratorExit):
            self.close()
        else:
            self._release()  # the disk may be full: nothing more is tried, what is committed stays

    @property
    def index(self) -> Path:
        """The index file of the shard being written."""
        return self._folder / f"{self._name}-{self._number:05d}.idx"

    def _open(self) -> None:
        """Take the first shard, from the current number on, that no other process holds and that is whole."""
        with writing(self._folder):
            while (lines := self._take_whole()) is None:
                self._number += 1
            self._lines, self._pending = lines, list[Record]()
            committed = list(read_index(self.index))
            self._lines.truncate(committed_bytes(self.index))
            self._rows, self._files = {}, {}
            for name, shape in self._shapes.items():
                rows = sum(record.tensors[name].rows for record in committed)
                header, path = npy_header(rows, shape, self._dtypes[name]), tensor_file(self.index, name)
                file = path.open("r+b" if path.exists() else "w+b")
                file.truncate(len(header) + rows * self._row_bytes(name))
                file.write(header)
                file.seek(0, os.SEEK_END)
                self._rows[name], self._files[name] = rows, file

    def _take_whole(self) -> BinaryIO | None:
        """Hold the current shard; None if another process has it or if rows that its index names are lost."""
        lines = _hold(self.index)
        if lines is None:
            return None
        present = {
            name: rows_in(tensor_file(self.index, name), shape, self._dtypes[name])
            for name, shape in self._shapes.items()
        }
        if all(record.within(present) for record in read_index(self.index)):
            return lines
        lines.close()
        return None

    def _append(self, name: str, content: Array | BinaryIO) -> Extent:
        first, size, crc = self._rows[name], 0, 0
        for block in _blocks(content, self._dtypes[name]):
            self._files[name].write(block)
            size, crc = size + len(block), zlib.crc32(block, crc)
        rows = size // self._row_bytes(name)
        self._rows[name] += rows
        return Extent(first, rows, crc)

    def _row_bytes(self, name: str) -> int:
        return int(np.prod(self._shapes[name])) * self._dtypes[name].itemsize

    def _release(self) -> None:
        for file in (*self._files.values(), self._lines):
            with contextlib.suppress(OSError):
                file.close()


class Rows:
    """Memory map (N, ...) of one tensor's file; only rows named by an index are valid.

    Args:
        path: the file.
        shape: of one row, and ``dtype``, as the store's recipe has them; the file's header must agree.
        in_memory: copy the rows into memory.

    Raises:
        StoreError: the file's header is damaged, or says something else.

    ``array`` is the map, or with ``in_memory`` a copy. ``forget`` gives the pages that were touched back to the system,
    which keeps them cached: resident memory stays flat however much is read.
    """

    def __init__(self, path: Path, shape: Sequence[int], dtype: np.dtype[Any], in_memory: bool = False) -> None:
        with reading(path, "a shard of this store", StoreError, LOST), path.open("rb") as file:
            offset = _check_header(file, path, shape, dtype)
            elements = int(np.prod(shape))
            rows = (os.fstat(file.fileno()).st_size - offset) // (elements * dtype.itemsize)
            self._map = None if in_memory else mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            source: Any = np.fromfile if in_memory else np.frombuffer
            place = {"count": rows * elements, "offset": 0 if in_memory else offset}
            self.array: Array = source(self._map or file, dtype, **place).reshape(rows, *shape)

    def forget(self) -> None:
        """Let go of the pages read so far."""
        if self._map is not None and hasattr(mmap, "MADV_DONTNEED"):
            self._map.madvise(mmap.MADV_DONTNEED)


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
            tensors = {name: Extent(*extent) for name, extent in values.pop("tensors").items()}
            yield Record(values.pop("key"), index, tensors, values)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise StoreError(
                f"{index}, line {number}: is damaged; delete the shard's files and cache again."
            ) from error


def committed_bytes(index: Path) -> int:
    """Return how many bytes of a shard's index are whole lines."""
    content = index.read_bytes()
    return content.rfind(b"\n") + 1


def rows_in(path: Path, shape: Sequence[int], dtype: np.dtype[Any]) -> int:
    """Return how many whole rows a tensor's file has by its size, 0 if it is missing."""
    try:
        size = path.stat().st_size
    except OSError:
        return 0
    row_bytes = int(np.prod(shape)) * dtype.itemsize
    return max(0, size - len(npy_header(0, shape, dtype))) // row_bytes


def not_finite(name: str, rows: Array) -> str | None:
    """Return where the rows (N, ...) of a tensor have their first NaN or infinity, and which one; None if nowhere."""
    if rows.dtype.kind != "f" or np.isfinite(rows).all():
        return None
    row = int(np.argmin(np.isfinite(rows).reshape(len(rows), -1).all(1)))
    values = rows[row][~np.isfinite(rows[row])]
    return f"{name}, row {row}: {values.flat[0]}"


def tensor_file(index: Path, tensor: str) -> Path:
    """The .npy file of a tensor, beside its shard's index."""
    return index.with_suffix(f".{tensor}.npy")


def shard_files(index: Path) -> list[Path]:
    """All files of a shard, its index last: a copy must never hold a line before the rows that it names."""
    return [*sorted(index.parent.glob(f"{index.stem}.*.npy")), index]


def npy_header(rows: int, shape: Sequence[int], dtype: np.dtype[Any]) -> bytes:
    """The header of a .npy file; numpy pads it so that its length does not depend on ``rows``."""
    buffer = io.BytesIO()
    description = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": (rows, *shape)}
    np.lib.format.write_array_header_1_0(buffer, description)
    return buffer.getvalue()


def _line(record: Record) -> bytes:
    tensors = {name: [e.row, e.rows, e.crc32] for name, e in record.tensors.items()}
    return to_json({"key": record.key, "tensors": tensors, **record.notes}).encode() + b"\n"


def _check_header(file: BinaryIO, path: Path, shape: Sequence[int], dtype: np.dtype[Any]) -> int:
    """Compare the header of a .npy file with what the store's recipe says; returns where its rows begin."""
    version = np.lib.format.read_magic(file)
    (_, *found_shape), fortran, found_dtype = np.lib.format.read_array_header_1_0(file)
    if version != (1, 0) or fortran or list(found_shape) != list(shape) or found_dtype != dtype:
        raise StoreError(
            f"{path}: its header says {found_dtype.str} {tuple(found_shape)} per row, but the store's recipe "
            f"{dtype.str} {tuple(shape)}. {LOST}"
        )
    return file.tell()


def _blocks(content: Array | BinaryIO, dtype: np.dtype[Any]) -> Iterator[bytes]:
    if isinstance(content, np.ndarray):
        yield np.ascontiguousarray(content, dtype).tobytes()
        return
    content.seek(0)
    while block := content.read(BLOCK):
        yield block


def _hold(index: Path) -> BinaryIO | None:
    """Open a shard's index for appending; None if another process has it. The system lets go when a process ends."""
    file = index.open("ab")
    if sys.platform == "win32":
        return file  # two runs that write one store at a time are not told apart there
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        return None
    except OSError:
        pass  # a file system without such locks: writers of one launch are numbered apart
    return file
