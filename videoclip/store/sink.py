"""The end of the pipeline: what workers say of clips becomes records, failures and a count of where time went."""

from __future__ import annotations

import contextlib
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
from videoclip.errors import StoreError, writing
from videoclip.files import to_json
from videoclip.store import FeatureStore
from videoclip.store.batches import Event
from videoclip.store.catalog import Failure
from videoclip.store.produce import Chunk, Decoding, Done, failure_of
from videoclip.store.push import push_shards
from videoclip.store.shards import ShardWriter, not_finite
from videoclip.video.isolation import Ended

COMMIT_SECONDS = 2.0  # the most finished work that a kill can cost
JPEG_QUALITY = 95
SPOOL_BYTES = 8 << 20  # of one clip's rows held in memory before they go to a temporary file


class Sink:
    """Writes what becomes of clips into a store.

    Args:
        store: the store as it is now.
        writer: number of this process.
        shard_bytes: see ``ShardWriter``.
        push_to: an fsspec address to which finished shards are copied.

    Attributes:
        cached, failed: clips so far.
        spent: seconds of each stage.
    """

    def __init__(self, store: FeatureStore, writer: int, shard_bytes: int, push_to: str | None) -> None:
        self._folder, self._recipe, self._push_to = store.folder, store.recipe, push_to
        self._next_generation, self._number = store.next_generation, writer
        self._open = partial(
            ShardWriter, store.folder, "clips", store.recipe.tensors, store.recipe.dtype_of, writer, shard_bytes
        )
        self._writer: ShardWriter | None = None  # opened for the first clip: without one nothing is touched
        self._table = store.folder / f"failures-{writer:04d}.jsonl"
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
            self._finish(clip, message, under_way)
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

    def _finish(self, clip: Clip, done: Done, under_way: _UnderWay) -> None:
        for stage, seconds in done.spent.items():
            self.spent[stage] += seconds
        if under_way.bad is not None:
            reason = f"{clip.path}: the encoder gave features that are not finite numbers ({under_way.bad})."
            self._fail(failure_of(clip, "encode", reason, under_way.decoder, sum(done.spent.values())))
            return
        self._writer = self._writer or self._open()
        generation = self._next_generation(clip.id)
        replaces = {"generation": generation} if generation else {}
        self._writer.add(clip.id, dict(under_way.files), **done.notes, **under_way.notes, **replaces)
        self.cached += 1

    def _fail(self, failure: Failure) -> None:
        with writing(self._folder), self._table.open("a", encoding="utf-8") as file:
            file.write(f"\n{to_json(asdict(failure))}\n")  # a kill may have left half a line
        self.failed += 1

    def _push(self, finished: list[Path]) -> None:
        """Copy closed shards already now; where it fails they go with the rest at the end."""
        if self._push_to is None or len(finished) == self._pushed:
            return
        with contextlib.suppress(StoreError):
            push_shards(self._folder, finished[self._pushed :], self._push_to, self._number)
            self._pushed = len(finished)


class _UnderWay:
    """The rows of a clip that is not complete; long ones lie in temporary files. Pixels may become JPEG pictures."""

    def __init__(self, jpeg: bool) -> None:
        self.decoder, self._jpeg = "", jpeg
        self.bad: str | None = None  # the first value that is not finite
        self.files: dict[str, Any] = {}
        self.notes: dict[str, list[int]] = {"jpeg_bytes": []} if jpeg else {}

    def add(self, chunk: Chunk) -> None:
        with writing(Path(tempfile.gettempdir())):
            for name, rows in chunk.rows.items():
                self.bad = self.bad or not_finite(name, rows)
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
    return failure_of(clip, stage, reason, decoder, round(ended.seconds, 3))
