"""Copy a store to an address as it grows, and never into another store."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from videoclip.data.remote import push, read_bytes, versions_at
from videoclip.errors import StoreError
from videoclip.files import read_json, replace_text, to_json
from videoclip.store.recipe import DESCRIPTION, Recipe, read_description
from videoclip.store.shards import shard_files
from videoclip.store.sources import CHANGES


def check_target(folder: Path, address: str) -> None:
    """Refuse an address that holds anything but an earlier state of this store.

    Raises:
        StoreError: naming what is there, or that the address cannot be read.
    """
    there = versions_at(address)
    if not there:
        return
    root = address.rstrip("/")
    if DESCRIPTION not in there:
        raise StoreError(f"{root} is neither empty nor a feature store; push to another address.")

    other = TypeAdapter(Recipe).validate_python(json.loads(read_bytes(f"{root}/{DESCRIPTION}"))["recipe"])
    if different := read_description(folder)[0].differences(other):
        raise StoreError(
            f"{root} holds a store of another recipe (here / there: {'; '.join(different)}); push to another address."
        )

    known = _pushed(folder, address)
    for name in sorted(name for name in there if name.endswith(".idx")):
        if known.get(name, [None])[-1] != there[name]:
            _check_prefix(folder / name, f"{root}/{name}")


def push_shards(folder: Path, indexes: Sequence[Path], address: str, writer: int) -> None:
    """Copy a store's description, shards and tables to an address, but for what lies there unchanged.

    Args:
        folder: the store.
        indexes: of the shards to copy.
        address: an fsspec address.
        writer: number of this process; each keeps its own table of what it pushed.

    Raises:
        StoreError: the address cannot be written.
    """
    tables = [*sorted(folder.glob("failures-*.jsonl")), *folder.glob(CHANGES)]
    shards = [file for index in indexes for file in shard_files(index)]
    pushed = push([folder / DESCRIPTION, *tables, *shards], address, _pushed(folder, address))
    table = _table(folder, writer)
    others = read_json(table, StoreError) if table.exists() else {}
    replace_text(table, to_json({**others, address: pushed}))


def _check_prefix(here: Path, there: str) -> None:
    """Refuse an index at an address that is not the beginning of the one here: another store's shard."""
    mine = here.read_bytes() if here.is_file() else b""
    if not mine.startswith(read_bytes(there)):
        raise StoreError(
            f"{there} is of another store than {here.parent}, though of the same recipe; push to another address, or "
            "merge the two stores first."
        )


def _pushed(folder: Path, address: str) -> dict[str, Any]:
    """Return what all processes noted of the files that they pushed to an address."""
    tables = [read_json(table, StoreError) for table in sorted(folder.glob("pushed-*.json"))]
    return {name: entry for table in tables for name, entry in table.get(address, {}).items()}


def _table(folder: Path, writer: int) -> Path:
    return folder / f"pushed-{writer:04d}.json"
