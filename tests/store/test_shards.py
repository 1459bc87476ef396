"""The files of a store survive being cut at any byte."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from videoclip.errors import StoreError
from videoclip.store.shards import ShardWriter, open_rows, read_index

ROWS = [np.arange(n * 4, dtype=np.float16).reshape(n, 4) + 100 * n for n in (3, 1, 5, 2)]


def write(folder: Path, count: int) -> None:
    with ShardWriter(folder, "clips-0000-00000", 4, "float16") as writer:
        for number in range(count):
            writer.add(f"k{number}", ROWS[number], note=number)
            writer.commit()


def content(folder: Path) -> dict[str, np.ndarray]:
    shard = folder / "clips-0000-00000.npy"
    records = list(read_index(shard.with_suffix(".idx")))
    rows = open_rows(shard)
    return {r.key: np.array(rows[r.row : r.row + r.rows]) for r in records}


def test_round_trip_and_plain_numpy(tmp_path: Path) -> None:
    write(tmp_path, 4)
    found = content(tmp_path)
    assert list(found) == ["k0", "k1", "k2", "k3"]
    assert all(np.array_equal(found[f"k{i}"], ROWS[i]) for i in range(4))
    assert np.array_equal(np.load(tmp_path / "clips-0000-00000.npy"), np.concatenate(ROWS))


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_a_kill_at_any_byte_loses_only_what_was_not_committed(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    """Cut both files as an interrupted write would: rows reach the disk before the line that names them."""
    folder = tmp_path_factory.mktemp("cut")
    write(folder, 4)
    shard = folder / "clips-0000-00000.npy"
    index = shard.with_suffix(".idx")
    lines = index.read_bytes().splitlines(keepends=True)
    committed = data.draw(st.integers(0, 4))
    torn = data.draw(st.integers(0, len(lines[committed]) - 1)) if committed < 4 else 0
    index.write_bytes(b"".join(lines[:committed]) + (lines[committed][:torn] if committed < 4 else b""))
    header = shard.stat().st_size - sum(r.nbytes for r in ROWS)
    needed = header + sum(r.nbytes for r in ROWS[:committed])
    shard.write_bytes(shard.read_bytes()[: data.draw(st.integers(needed, shard.stat().st_size))])
    assert list(content(folder)) == [f"k{i}" for i in range(committed)]
    with ShardWriter(folder, "clips-0000-00000", 4, "float16") as writer:
        for number in range(committed, 4):
            writer.add(f"k{number}", ROWS[number], note=number)
    assert all(np.array_equal(rows, ROWS[i]) for i, rows in enumerate(content(folder).values()))
    assert len(content(folder)) == 4


def test_a_reader_sees_what_is_committed_while_a_writer_works(tmp_path: Path) -> None:
    writer = ShardWriter(tmp_path, "clips-0000-00000", 4, "float16")
    writer.add("a", ROWS[0])
    assert content(tmp_path) == {}
    writer.commit()
    writer.add("b", ROWS[1])
    assert list(content(tmp_path)) == ["a"]
    writer.close()
    assert list(content(tmp_path)) == ["a", "b"]


def test_lost_data_and_damaged_lines_are_told(tmp_path: Path) -> None:
    write(tmp_path, 2)
    shard = tmp_path / "clips-0000-00000.npy"
    index = shard.with_suffix(".idx")
    whole = index.read_bytes()
    index.write_bytes(b"garbage\n" + whole)
    with pytest.raises(StoreError, match="line 1"):
        list(read_index(index))
    index.write_bytes(whole)
    shard.write_bytes(shard.read_bytes()[:-1])
    with pytest.raises(StoreError, match="shorter than its index says"):
        ShardWriter(tmp_path, "clips-0000-00000", 4, "float16")
