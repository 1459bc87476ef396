"""Encoding on an accelerator: batches of one fixed size, filled across videos, while others are being decoded."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor

from videoclip.backbone import Backbone, device_of
from videoclip.data.manifest import Clip
from videoclip.store.produce import Chunk, encode
from videoclip.store.recipe import Recipe

Event = tuple[Clip, Any]


def encode_batches(
    events: Iterable[Event], backbone: Backbone, recipe: Recipe, size: int, spent: dict[str, float]
) -> Iterator[Event]:
    """Turn chunks of pixels into chunks of rows; all other messages pass, in their place.

    One batch is encoded while the next is filled. The last one is padded, so that all have one shape.

    Args:
        events: (clip, message) with chunks of pixels (n, 1 + V, 3, S, S).
        backbone: on its device.
        recipe: of the store.
        size: frames a batch.
        spent: gets the seconds of encoding.
    """
    device = device_of(backbone)
    filling, running = _Batch(size, backbone, recipe, device), _Batch(size, backbone, recipe, device)
    for clip, message in events:
        if not isinstance(message, Chunk):
            filling.line.append((clip, message))
            if not filling.used and not running.line:  # nothing before it waits
                yield from filling.collect(spent)
            continue
        pixels = torch.from_numpy(message.rows["pixels"])
        while len(pixels):
            pixels = filling.take(clip, pixels)
            if filling.used == size:
                filling.start()
                yield from running.collect(spent)
                filling, running = running, filling
    filling.start()
    yield from running.collect(spent)
    yield from filling.collect(spent)


class _Batch:
    """Frames under way to the accelerator and back, and the messages between them."""

    def __init__(self, size: int, backbone: Backbone, recipe: Recipe, device: torch.device) -> None:
        shape = (size, 1 + len(recipe.views), 3, *backbone.preprocess.size)
        self._pixels = torch.zeros(shape, dtype=torch.uint8, pin_memory=device.type == "cuda")
        self._backbone, self._recipe, self._device = backbone, recipe, device
        self._rows: dict[str, Tensor] = {}
        self._marks: list[Any] = []
        self.used, self.line = 0, list[Event | tuple[Clip, int]]()

    def take(self, clip: Clip, pixels: Tensor) -> Tensor:
        """Put in as many frames as there is room for; the rest comes back."""
        room = len(self._pixels) - self.used
        part = pixels[:room]
        self._pixels[self.used : self.used + len(part)] = part
        self.used += len(part)
        self.line.append((clip, len(part)))
        return pixels[room:]

    def start(self) -> None:
        """Begin encoding; on a GPU this returns at once."""
        if not self.used:
            return
        self._mark()
        self._rows = encode(self._backbone, self._pixels.to(self._device, non_blocking=True), self._recipe)
        self._mark()

    def collect(self, spent: dict[str, float]) -> Iterator[Event]:
        """The rows and messages of this batch, in order; it is empty afterwards."""
        rows = {name: tensor.cpu().numpy() for name, tensor in self._rows.items()}
        if self._marks:
            spent["encode"] = spent.get("encode", 0.0) + self._between()
        at = 0
        for clip, entry in self.line:
            if isinstance(entry, int):
                yield clip, Chunk({name: array[at : at + entry] for name, array in rows.items()})
                at += entry
            else:
                yield clip, entry
        self._rows, self._marks, self.used, self.line = {}, [], 0, []

    def _mark(self) -> None:
        """Note the device's own time: the host's clock would count the waiting."""
        if self._device.type != "cuda":
            self._marks.append(time.perf_counter())
            return
        mark = torch.cuda.Event(enable_timing=True)
        mark.record()
        self._marks.append(mark)

    def _between(self) -> float:
        first, last = self._marks
        return float(last - first if isinstance(first, float) else first.elapsed_time(last) / 1000)
