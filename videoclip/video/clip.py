"""A clip from its file to the pixels that a backbone takes: probe, choose frames, decode, resize."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from videoclip.errors import DecodeError
from videoclip.video import decode, sampling
from videoclip.video.preprocess import Preprocess


@dataclass(frozen=True)
class FrameChoice:
    """Which frames of every clip to take: exactly one of a number of frames or a rate.

    Attributes:
        frames: so many, each from the middle of an equal segment of the clip; fewer where the clip has fewer.
        fps: so many a second.
    """

    frames: int | None = None
    fps: float | None = None

    def __post_init__(self) -> None:
        if (self.frames is None) == (self.fps is None):
            raise ValueError("give either frames or fps.")


@dataclass(frozen=True)
class ClipPixels:
    """A clip ready for the image tower.

    Attributes:
        pixels: (T, 3, S, S) uint8.
        seconds: (T,) float64 true presentation times.
        decoder: who decoded.
        damaged: packets of the file that could not be decoded; its frames were chosen among the others.
    """

    pixels: Tensor
    seconds: Tensor
    decoder: str
    damaged: int


def load_clip(
    path: str | Path,
    choice: FrameChoice,
    preprocess: Preprocess,
    start: float | None = None,
    end: float | None = None,
    decoder: decode.Decoder = "auto",
) -> ClipPixels:
    """Decode and resize the chosen frames of a clip; full-size pictures live for a few frames only.

    Where a chosen frame turns out to be undecodable, frames are chosen anew among those that do decode.

    Raises:
        DecodeError: the file is no video, or nothing of the stretch can be decoded.
    """
    info = decode.probe(path, decoder)
    try:
        return _load(info, choice, preprocess, start, end)
    except DecodeError as error:
        if error.stage != "decode" or not info.timed:
            raise
    return _load(decode.scan(info), choice, preprocess, start, end)


def _load(
    info: decode.VideoInfo,
    choice: FrameChoice,
    preprocess: Preprocess,
    start: float | None,
    end: float | None,
) -> ClipPixels:
    inside = info.stretch(start, end)
    times = info.times[inside]
    if choice.frames is not None:
        chosen = sampling.uniform(times, choice.frames)
    else:
        assert choice.fps is not None
        chosen = sampling.fixed_rate(times, choice.fps)
    indices = inside[chosen.real]
    parts, decoders = [], set()
    for frames in decode.iterate(info, indices):
        parts.append(preprocess(frames.pixels))
        decoders.add(frames.decoder)
    return ClipPixels(torch.cat(parts), torch.from_numpy(info.times[indices]), "+".join(sorted(decoders)), info.damaged)
