"""What a store's tables say: which clips and texts it has, which it lost, and which could not be cached."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from videoclip.errors import StoreError
from videoclip.files import read_lines, reading
from videoclip.store.recipe import Recipe
from videoclip.store.shards import LOST, Record, read_index, rows_in, tensor_file
from videoclip.store.sources import CHANGES

Kind = Literal["clips", "texts"]


@dataclass(frozen=True)
class Failure:
    """A clip that could not be cached.

    Attributes:
        id, path: the clip.
        stage, reason: where and why caching failed.
        decoder: which decoder was at work, empty before one was chosen.
        seconds: until the failure.
        bytes, modified: size and version of the file then, None if it was missing; see ``source_notes``.
    """

    id: str
    path: str
    stage: str
    reason: str
    decoder: str
    seconds: float
    bytes: int | None = None
    modified: str | None = None


@dataclass(frozen=True)
class Catalog:
    """The records of a store.

    Attributes:
        records: by key; of several with one key the one that replaced the others.
        generations: the highest generation of each key, of lost and forgotten records as well.
        lost: keys that an index names, but whose rows are missing: their shard is gone or cut off.
    """

    records: dict[str, Record] = field(default_factory=dict)
    generations: dict[str, int] = field(default_factory=dict)
    lost: set[str] = field(default_factory=set)


def read_catalog(folder: Path, recipe: Recipe, kind: Kind) -> Catalog:
    """Read the indexes of all writers.

    Of several records of a key the one of the highest generation counts; of two that independent runs wrote, the first.

    Raises:
        StoreError: an index is damaged.
    """
    catalog = Catalog()
    for index in sorted(folder.glob(f"{kind}-*.idx")):
        present = {
            name: rows_in(tensor_file(index, name), shape, dtype)
            for name, (shape, dtype) in row_types(recipe, kind).items()
        }
        for record in read_index(index):
            _enter(catalog, record, record.within(present))

    catalog.lost.difference_update(catalog.records)
    if kind == "clips":
        _apply_changes(catalog.records, folder / CHANGES)
    return catalog


def read_failures(folder: Path) -> list[Failure]:
    """Read the tables of failures; of several of a clip the last counts."""
    lines = [line for table in sorted(folder.glob("failures-*.jsonl")) for line in _objects(table)]
    failures = [Failure(**line) for line in lines if {"id", "path", "stage", "reason"} <= set(line)]
    return list({failure.id: failure for failure in failures}.values())


def row_types(recipe: Recipe, kind: Kind) -> dict[str, tuple[list[int], np.dtype[Any]]]:
    """Return the shape of one row and the dtype of each tensor of a kind, as the recipe has them."""
    tensors = recipe.tensors if kind == "clips" else recipe.text_tensors
    return {name: (shape, np.dtype(recipe.dtype_of(name))) for name, shape in tensors.items()}


def take_seconds(record: Record) -> np.ndarray:
    """Take the times (T,) of a clip's frames out of its notes.

    Raises:
        StoreError: they are missing, or there is another number of them than of frames.
    """
    with reading(record.index, "an index of clips", StoreError, LOST):
        seconds = np.array(record.notes.pop("seconds"), float)
        if seconds.shape != (record.tensors["frames"].rows,):
            raise ValueError(f"clip {record.key!r} has {record.tensors['frames'].rows} frames, {seconds.shape} times")
    return seconds


def _enter(catalog: Catalog, record: Record, whole: bool) -> None:
    """Enter a record, unless another of its key replaced it."""
    known = catalog.generations.get(record.key, -1)
    catalog.generations[record.key] = max(known, record.generation)
    if not whole:
        catalog.lost.add(record.key)
        return
    rival = catalog.records.get(record.key)
    if rival is None or rival.generation < record.generation:
        catalog.records[record.key] = record


def _apply_changes(records: dict[str, Record], table: Path) -> None:
    """Take in where clips were moved to, and leave out those that were forgotten."""
    for change in _objects(table):
        record = records.get(change.pop("key", ""))
        if record is None or record.generation != change.pop("generation", None):
            continue
        if change.pop("forgotten", False):
            del records[record.key]
        else:
            record.notes.update(change)


def _objects(table: Path) -> Iterator[dict[str, Any]]:
    """Yield the JSON objects of a table, a line each; what a kill left of a line is passed over."""
    if not table.exists():
        return
    for line in read_lines(table, StoreError):
        try:
            content = json.loads(line)
        except ValueError:
            continue
        if isinstance(content, Mapping):
            yield dict(content)
