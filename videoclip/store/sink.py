"""The end of the pipeline: what workers say of clips becomes records, failures and a count of where time went."""

from __future__ import annotations

import contextlib
import json
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from torchvision.io import encode_jpeg

from videoclip.data.manifest import Clip
from videoclip.data.remote import push
from videoclip.errors import StoreError, writing
from videoclip.store import Failure
from videoclip.store.batches import Event
from videoclip.store.produce import Chunk, Decoding, Done
from videoclip.store.recipe import DESCRIPTION, Recipe
from videoclip.store.shards import ShardWriter, shard_files
from videoclip.video.isolation import Ended

COMMIT_SECONDS = 2.0  # the most finished work that a kill can cost
JPEG_QUALITY = 95
SPOOL_BYTES = 8 << 20  # of one clip's rows held in memory before they go to a temporary file


class Sink:
    """Writes what becomes of clips into a store.

    Args:
        folder: the store.
        recipe: of the store.
        writer: number of this process.
        shard_bytes: see ``ShardWriter``.
        push_to: an fsspec address to which finished shards are copied.

    Attributes:
        cached, failed: clips so far.
        spent: seconds of each stage.
    """

    def __init__(self, folder: Path, recipe: Recipe, writer: int, shard_bytes: int, push_to: str | None) -> None:
        self._folder, self._recipe, self._push_to = folder, recipe, push_to
        self._open = partial(ShardWriter, folder, "clips", recipe.tensors, recipe.dtype_of, writer, shard_bytes)
        self._writer: ShardWriter | None = None  # opened for the first clip: without one nothing is touched
        self._table = folder / f"failures-{writer:04d}.jsonl"
        self._under_way: dict[str, _UnderWay] = {}
        self._committed, self._pushed = time.monotonic(), 0
        self.cached, self.failed = 0, 0
        self.spent: defaultdict[str, float] = defaultdict(float)

    def take(self, events: Iterable[Event]) -> Iterable[None]:
        """Write events as they come; yields once for each clip that is cached or failed."""
        for clip, message in events:
            began = time.perf_counter()
            ended = self._take(clip, message)
            self.spent["write"] += time.perf_counter() - began
            if ended:
                yield

    def __enter__(self) -> Sink:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._writer is not None:
            self._writer.__exit__(kind, error, at)

    def _take(self, clip: Clip, message: Any) -> bool:
        under_way = self._under_way.setdefault(clip.id, _UnderWay("jpeg" in self._recipe.tensors))
        if isinstance(message, Decoding):
            under_way.decoder = message.decoder
        elif isinstance(message, Chunk):
            under_way.add(message)
        elif isinstance(message, Done):
            self._writer = self._writer or self._open()
            self._writer.add(clip.id, dict(under_way.files), **message.notes, **under_way.notes)
            for stage, seconds in message.spent.items():
                self.spent[stage] += seconds
            self.cached += 1
        elif isinstance(message, Failure):
            self._fail(message)
        elif isinstance(message, Ended):
            if message.error:
                self._fail(_lost(clip, message, under_way.decoder))
            self._under_way.pop(clip.id).close()
        if self._writer is not None and time.monotonic() - self._committed > COMMIT_SECONDS:
            self._writer.commit()
            self._push(self._writer.finished)
            self._committed = time.monotonic()
        return isinstance(message, Ended)

    def _fail(self, failure: Failure) -> None:
        with writing(self._folder), self._table.open("a") as file:
            file.write(f"\n{json.dumps(asdict(failure), ensure_ascii=False)}\n")  # a kill may have left half a line
        self.failed += 1

    def _push(self, finished: list[Path]) -> None:
        """Copy closed shards already now; where it fails they go with the rest at the end."""
        if self._push_to is None or len(finished) == self._pushed:
            return
        files = [file for index in finished[self._pushed :] for file in shard_files(index)]
        with contextlib.suppress(StoreError):
            push([self._folder / DESCRIPTION, *files], self._push_to)
            self._pushed = len(finished)


class _UnderWay:
    """The rows of a clip that is not complete; long ones lie in temporary files. Pixels may become JPEG pictures."""

    def __init__(self, jpeg: bool) -> None:
        self.decoder, self._jpeg = "", jpeg
        self.files: dict[str, Any] = {}
        self.notes: dict[str, list[int]] = {"jpeg_bytes": []} if jpeg else {}

    def add(self, chunk: Chunk) -> None:
        with writing(Path(tempfile.gettempdir())):
            for name, rows in chunk.rows.items():
                if name == "pixels" and self._jpeg:
                    pictures = [encode_jpeg(torch.from_numpy(row), JPEG_QUALITY).numpy() for row in rows]
                    self.notes["jpeg_bytes"] += [picture.nbytes for picture in pictures]
                    self._write("jpeg", pictures)
                else:
                    self._write(name, [rows])

    def _write(self, name: str, parts: Iterable[Any]) -> None:
        if name not in self.files:
            self.files[name] = tempfile.SpooledTemporaryFile(SPOOL_BYTES)  # noqa: SIM115 - closed by close
        for part in parts:
            self.files[name].write(part.tobytes())

    def close(self) -> None:
        for file in self.files.values():
            file.close()


def _lost(clip: Clip, ended: Ended, decoder: str) -> Failure:
    """What is told of a clip whose worker did not live to tell it, or met an error that it did not expect."""
    stage, reason = "decode" if decoder else "open", f"{clip.path}: {ended.error}."
    return Failure(clip.id, str(clip.path), stage, reason, decoder, round(ended.seconds, 3))
