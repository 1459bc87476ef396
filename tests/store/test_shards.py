"""The files of a store survive being cut at any byte."""

from __future__ import annotations

import io
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from videoclip.errors import StoreError
from videoclip.store.shards import Record, Rows, ShardWriter, read_index

INDEX = "clips-0000-00000.idx"
ROWS = [np.arange(n * 4, dtype=np.float16).reshape(n, 4) + 100 * n for n in (3, 1, 5, 2)]


def writer_of(folder: Path, **options: int) -> ShardWriter:
    return ShardWriter(folder, "clips", {"frames": [4]}, "float16", **options)


def write(folder: Path, count: int) -> None:
    with writer_of(folder) as writer:
        for number in range(count):
            writer.add(f"k{number}", {"frames": ROWS[number]}, note=number)
            writer.commit()


def rows(record: Record, tensor: str, shape: tuple[int, ...] = (4,), in_memory: bool = False) -> np.ndarray:
    return np.array(Rows(record.file(tensor), shape, np.dtype("float16"), in_memory).array)


def content(folder: Path) -> dict[str, np.ndarray]:
    found = {}
    for index in sorted(folder.glob("*.idx")):
        for record in read_index(index):
            extent = record.tensors["frames"]
            found[record.key] = rows(record, "frames")[extent.row : extent.row + extent.rows]
    return found


def test_round_trip_and_plain_numpy(tmp_path: Path) -> None:
    write(tmp_path, 4)
    found = content(tmp_path)
    assert list(found) == ["k0", "k1", "k2", "k3"]
    assert all(np.array_equal(found[f"k{i}"], ROWS[i]) for i in range(4))
    assert np.array_equal(np.load(tmp_path / "clips-0000-00000.frames.npy"), np.concatenate(ROWS))


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_a_kill_at_any_byte_loses_only_what_was_not_committed(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    """Cut both files as an interrupted write would: rows reach the disk before the line that names them."""
    folder = tmp_path_factory.mktemp("cut")
    write(folder, 4)
    index, shard = folder / INDEX, folder / "clips-0000-00000.frames.npy"
    lines = index.read_bytes().splitlines(keepends=True)
    committed = data.draw(st.integers(0, 4))
    torn = data.draw(st.integers(0, len(lines[committed]) - 1)) if committed < 4 else 0
    index.write_bytes(b"".join(lines[:committed]) + (lines[committed][:torn] if committed < 4 else b""))
    header = shard.stat().st_size - sum(r.nbytes for r in ROWS)
    needed = header + sum(r.nbytes for r in ROWS[:committed])
    shard.write_bytes(shard.read_bytes()[: data.draw(st.integers(needed, shard.stat().st_size))])
    assert list(content(folder)) == [f"k{i}" for i in range(committed)]
    with writer_of(folder) as writer:
        assert shard.stat().st_size == needed  # cut back to the last committed row
        for number in range(committed, 4):
            writer.add(f"k{number}", {"frames": ROWS[number]}, note=number)
    assert all(np.array_equal(rows, ROWS[i]) for i, rows in enumerate(content(folder).values()))
    assert len(content(folder)) == 4


def test_a_reader_sees_what_is_committed_while_a_writer_works(tmp_path: Path) -> None:
    writer = writer_of(tmp_path)
    writer.add("a", {"frames": ROWS[0]})
    assert content(tmp_path) == {}
    writer.commit()
    writer.add("b", {"frames": ROWS[1]})
    assert list(content(tmp_path)) == ["a"]
    writer.close()
    assert list(content(tmp_path)) == ["a", "b"]


def test_full_shards_are_closed_and_the_next_begun(tmp_path: Path) -> None:
    with writer_of(tmp_path, shard_bytes=170) as writer:
        for number in range(4):
            writer.add(f"k{number}", {"frames": ROWS[number]})
    assert [p.name for p in writer.finished] == ["clips-0000-00000.idx", "clips-0000-00001.idx"]
    with writer_of(tmp_path, shard_bytes=170) as writer:
        writer.add("k4", {"frames": ROWS[0]})
    assert len(list(tmp_path.glob("*.idx"))) == 2
    assert [len(rows) for rows in content(tmp_path).values()] == [3, 1, 5, 2, 3]


def test_two_living_writers_never_share_a_shard(tmp_path: Path) -> None:
    first, second = writer_of(tmp_path), writer_of(tmp_path)
    first.add("a", {"frames": ROWS[0]})
    second.add("b", {"frames": ROWS[1]})
    first.commit()
    second.close()
    first.close()
    assert first.index != second.index
    assert {key: len(rows) for key, rows in content(tmp_path).items()} == {"a": 3, "b": 1}


def test_several_tensors_and_rows_from_a_file(tmp_path: Path) -> None:
    shapes = {"frames": [4], "patches": [2, 4]}
    patches = np.arange(24, dtype=np.float16).reshape(3, 2, 4)
    with ShardWriter(tmp_path, "clips", shapes, "float16") as writer, io.BytesIO(patches.tobytes()) as file:
        writer.add("a", {"frames": ROWS[0], "patches": file})
    (record,) = read_index(tmp_path / INDEX)
    assert np.array_equal(rows(record, "patches", (2, 4)), patches)
    assert np.array_equal(rows(record, "patches", (2, 4), in_memory=True), patches)
    assert record.tensors["patches"].crc32 == zlib.crc32(patches.tobytes())


def test_lost_data_and_damaged_lines_are_told(tmp_path: Path) -> None:
    write(tmp_path, 2)
    index, shard = tmp_path / INDEX, tmp_path / "clips-0000-00000.frames.npy"
    whole = index.read_bytes()
    index.write_bytes(b"garbage\n" + whole)
    with pytest.raises(StoreError, match="line 1"):
        list(read_index(index))
    index.write_bytes(whole)
    shard.write_bytes(shard.read_bytes()[:-1])
    with writer_of(tmp_path) as writer:  # leaves the shard alone and begins another one
        writer.add("k1", {"frames": ROWS[1]}, generation=1)
    assert (tmp_path / INDEX).read_bytes() == whole
    assert [record.key for record in read_index(writer.index)] == ["k1"]


@pytest.mark.parametrize("header", [b"<i2", b"<f4", b"\x00\x00\x00", b">f2"])
def test_a_header_that_disagrees_with_the_recipe_is_refused(tmp_path: Path, header: bytes) -> None:
    write(tmp_path, 2)
    shard = tmp_path / "clips-0000-00000.frames.npy"
    shard.write_bytes(shard.read_bytes().replace(b"<f2", header, 1))
    (record, *_) = read_index(tmp_path / INDEX)
    with pytest.raises(StoreError, match=r"frames\.npy: (its header says|is not a shard)"):
        rows(record, "frames")
