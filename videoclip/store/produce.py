"""From a clip's file to the rows of a store: what a worker process does for one clip, a few frames at a time."""

from __future__ import annotations

import contextlib
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from videoclip.backbone import Backbone
from videoclip.data.manifest import Clip
from videoclip.data.remote import is_remote, local_file
from videoclip.errors import DecodeError
from videoclip.store.catalog import Failure
from videoclip.store.recipe import Recipe
from videoclip.store.sources import sha256_of, source_notes
from videoclip.video.clip import FrameChoice, chosen_frames
from videoclip.video.decode import Frames, Video
from videoclip.video.preprocess import Preprocess
from videoclip.video.probe import Decoder, VideoInfo, decoder_version
from videoclip.video.views import make_views

Array = np.ndarray
HELD_FRAMES = 64  # decoded before they are encoded: meanwhile decord's thread decodes ahead, mostly for nothing
ENCODE_FRAMES = 8  # frames a pass through the image tower on a CPU: the fastest there
STAGES = ("probe", "decode", "preprocess", "encode")


@dataclass(frozen=True)
class Decoding:
    """A sign of life: frames are coming, and from whom, in case the process does not live to tell the end."""

    decoder: str


@dataclass(frozen=True)
class Chunk:
    """Some frames of a clip: ``pixels`` (n, 1 + V, 3, S, S) uint8, or the rows (n, ...) of each tensor of the store."""

    rows: dict[str, Array]


@dataclass(frozen=True)
class Done:
    """A clip is complete.

    Attributes:
        notes: what the store's index keeps of it.
        spent: CPU seconds of each stage.
    """

    notes: dict[str, Any]
    spent: dict[str, float]


Message = Decoding | Chunk | Done | Failure


@dataclass(frozen=True)
class Producer:
    """Makes the rows of a clip, or its pixels where the encoder runs elsewhere.

    Attributes:
        recipe: of the store.
        preprocess: the backbone's image transform.
        backbone: encodes here; None hands on pixels.
        broken: whether short and damaged files are kept or refused.
    """

    recipe: Recipe
    preprocess: Preprocess
    backbone: Backbone | None
    broken: Literal["keep", "refuse"] = "keep"

    def __call__(self, clip: Clip) -> Iterator[Message]:
        """Messages of a clip: signs of life and chunks, then ``Done``; or a ``Failure``, at any point."""
        began, decoder = time.monotonic(), ""
        try:
            for message in self._produce(clip):
                decoder = message.decoder if isinstance(message, Decoding) else decoder
                yield message
        except DecodeError as error:
            seconds = round(time.monotonic() - began, 3)
            yield failure_of(clip, error.stage, str(error), decoder, seconds)

    def _produce(self, clip: Clip) -> Iterator[Message]:
        clock = _Clock()
        source = source_notes(clip)  # before the file is read: what is replaced meanwhile must not pass for this one
        choice = FrameChoice(self.recipe.frames, self.recipe.fps, self.recipe.sampling)  # type: ignore[arg-type]
        with local_file(clip.path) as path:
            with clock.stage("probe"):
                video, digest = _open(path, self.recipe.decoder)  # type: ignore[arg-type]
            with video:
                self._refuse_short(video.info)
                yield Decoding(video.info.decoder)
                seconds, decoders = list[float](), set[str]()
                frames = chosen_frames(video, choice, clip.start, clip.end)
                yield from self._encoded(
                    self._pixels(frames, clip, clock, seconds, decoders), clock, video.info.decoder
                )
                notes = {
                    "seconds": seconds,
                    "decoder": "+".join(decoder_version(name) for name in sorted(decoders)),
                    "status": self._status(video),
                    "errors": video.errors,
                    "sha256": digest,
                    **source,
                }
                if video.info.interlaced:
                    notes["interlaced"] = True
        yield Done(notes, dict(clock.spent))

    def _pixels(
        self, frames: Iterator[Frames], clip: Clip, clock: _Clock, seconds: list[float], decoders: set[str]
    ) -> Iterator[Tensor]:
        """Pixels (n, 1 + V, 3, S, S); their times and decoders are noted in passing."""
        while True:
            with clock.stage("decode"):
                part = next(frames, None)
            if part is None:
                return
            with clock.stage("preprocess"):
                pixels = make_views(part.pixels, self.preprocess, self.recipe.views, clip.id, part.aspect)
            seconds.extend(round(float(s), 6) for s in part.seconds)
            decoders.add(part.decoder)
            yield pixels

    def _encoded(self, parts: Iterator[Tensor], clock: _Clock, decoder: str) -> Iterator[Message]:
        """Chunks of rows, or of pixels."""
        if self.backbone is None:
            yield from (Chunk({"pixels": part.numpy()}) for part in parts)
            return
        held = list[Tensor]()
        for part in parts:
            held.append(part)
            yield Decoding(decoder)
            if sum(map(len, held)) >= HELD_FRAMES:
                yield from self._rows(self.backbone, torch.cat(held), clock)
                held = []
        if held:
            yield from self._rows(self.backbone, torch.cat(held), clock)

    def _rows(self, backbone: Backbone, pixels: Tensor, clock: _Clock) -> Iterator[Chunk]:
        for batch in pixels.split(max(1, ENCODE_FRAMES // pixels.shape[1])):
            with clock.stage("encode"):
                rows = encode(backbone, batch, self.recipe)
            yield Chunk({name: tensor.numpy() for name, tensor in rows.items()})

    def _refuse_short(self, info: VideoInfo) -> None:
        if self.broken == "refuse" and info.short:
            raise DecodeError(
                "check", f"{info.path}: is short: it claims {info.duration:.2f} s and holds {info.span:.2f} s."
            )

    def _status(self, video: Video) -> str:
        if self.broken == "refuse" and video.errors:
            raise DecodeError("check", f"{video.info.path}: is damaged: {video.errors} of its pictures have errors.")
        flags = [name for name, holds in (("short", video.info.short), ("damaged", video.errors > 0)) if holds]
        return "+".join(flags) or "ok"


@torch.inference_mode()
def encode(backbone: Backbone, pixels: Tensor, recipe: Recipe) -> dict[str, Tensor]:
    """Rows of each tensor of a store, in its dtype, on the pixels' device: pixels (n, 1 + V, 3, S, S) -> (n, ...)."""
    count, views = pixels.shape[:2]
    precision = {"fp32": None, "fp16": torch.float16, "bf16": torch.bfloat16}[recipe.precision]
    dtype = getattr(torch, recipe.dtype)
    rows: dict[str, Tensor] = {}
    kept = {"pixels": pixels[:, 0]} if recipe.pixels else {}
    with torch.autocast(pixels.device.type, precision, enabled=precision is not None):
        if "patches" in recipe.tensors:
            plain, patches = backbone.encode_patches(pixels[:, 0])
            rows = {"frames": plain.to(dtype), "patches": patches.to(dtype)}
            pixels = pixels[:, 1:]
        if pixels.shape[1]:
            every = backbone.encode_image(pixels.flatten(0, 1)).to(dtype).unflatten(0, (count, -1))
            if not rows:
                rows, every = {"frames": every[:, 0]}, every[:, 1:]
            if views > 1:
                rows["views"] = every
    return {**rows, **kept}


class _Clock:
    """CPU seconds of this process by stage."""

    def __init__(self) -> None:
        self.spent: defaultdict[str, float] = defaultdict(float)

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[None]:
        began = time.process_time()
        yield
        self.spent[name] += time.process_time() - began


_last: dict[tuple[Any, ...], tuple[VideoInfo, str]] = {}  # of the file read last: many clips may be stretches of it


def _open(path: Path, decoder: Decoder) -> tuple[Video, str]:
    """An open video and the SHA-256 of its file."""
    status = path.stat() if path.exists() else None
    key = (path, decoder, status and (status.st_size, status.st_mtime_ns))
    if key in _last:
        info, digest = _last[key]
        return Video(path, decoder, info), digest
    video = Video(path, decoder)
    digest = sha256_of(path)
    _last.clear()
    _last[key] = video.info, digest
    return video, digest


def failure_of(clip: Clip, stage: str, reason: str, decoder: str, seconds: float) -> Failure:
    """Return the failure of a clip, with the version of its file: another one is tried again."""
    source = source_notes(clip)
    path = source["path"] if is_remote(clip.path) else str(clip.path)
    return Failure(clip.id, path, stage, reason, decoder, seconds, source["bytes"], source["modified"])
