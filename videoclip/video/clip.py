"""A clip from its file to the pixels that a backbone takes: look, choose frames, decode, resize; a few at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from videoclip.errors import DecodeError
from videoclip.video import sampling
from videoclip.video.decode import Frames, Video
from videoclip.video.probe import VideoInfo

Array = np.ndarray


@dataclass(frozen=True)
class FrameChoice:
    """Which frames of every clip to take: exactly one of a number of frames or a rate.

    Attributes:
        frames: so many, each from the middle of an equal segment of the clip; fewer where the clip has fewer, or where
            two segments share the nearest frame, which a variable frame rate can bring about.
        fps: so many a second.
        sampling: ``exact`` takes the frame nearest to each moment; ``key`` the key frame nearest to it, each once:
            several times cheaper on long videos, but fewer frames, off by up to half a group of pictures.
        generator: takes random moments of the segments rather than their middles; for training.
    """

    frames: int | None = None
    fps: float | None = None
    sampling: Literal["exact", "key"] = "exact"
    generator: np.random.Generator | None = None

    def __post_init__(self) -> None:
        if (self.frames is None) == (self.fps is None):
            raise ValueError("give either frames or fps.")

    def of(self, info: VideoInfo, start: float | None = None, end: float | None = None) -> Array:
        """Indices (T,) of the chosen frames of a stretch of a file, ascending, none twice.

        Raises:
            DecodeError: the stretch holds no frame, or no key frame where those were asked for.
        """
        inside = info.stretch(start, end)
        times = info.times[inside]
        if self.frames is not None:
            if self.generator is None:
                found = sampling.uniform(times, self.frames)
            else:
                found = sampling.random_in_segments(times, self.frames, self.generator)
            chosen = inside[np.unique(found.real)]
        else:
            assert self.fps is not None
            chosen = inside[sampling.fixed_rate(times, self.fps).real]
        if self.sampling == "exact":
            return chosen
        keys = np.intersect1d(info.keys, inside)
        if not len(keys):
            raise DecodeError("probe", f"{info.path}: no key frame between {start} and {end} s; sample exactly.")
        return np.unique(keys[sampling.nearest(info.times[keys], info.times[chosen])])


@dataclass(frozen=True)
class ClipPixels:
    """A clip ready for the image tower.

    Attributes:
        pixels: (T, 3, S, S) uint8.
        seconds: (T,) float64 true presentation times.
    """

    pixels: Tensor
    seconds: Tensor


def chosen_frames(
    video: Video, choice: FrameChoice, start: float | None = None, end: float | None = None
) -> Iterator[Frames]:
    """Decode the chosen frames of a clip, a few at a time, in order of time.

    Where one turns out to be undecodable, the nearest to its moment among those that do decode is taken, each once.

    Raises:
        DecodeError: the file is no video, or nothing of the stretch can be decoded.
    """
    indices = choice.of(video.info, start, end)
    moments, given = video.info.times[indices], -np.inf
    try:
        for frames in video.iterate(indices):
            yield frames
            given = frames.seconds[-1]
        return
    except DecodeError as error:
        if error.stage != "decode":
            raise
    video.scan()
    inside = video.info.stretch(start, end)
    times = video.info.times[inside]
    rest = inside[np.unique(sampling.nearest(times, moments))]
    rest = rest[video.info.times[rest] > given + 1e-6]
    if len(rest):
        yield from video.iterate(rest)


def load_clip(
    path: str | Path,
    choice: FrameChoice,
    preprocess: Callable[[Array, float], Tensor],
    start: float | None = None,
    end: float | None = None,
) -> ClipPixels:
    """Decode and resize the chosen frames of a file; full-size pictures live for a few frames only.

    Args:
        preprocess: frames (T, H, W, 3) uint8 and the aspect of their pixels -> (T, 3, S, S) uint8; called for a few
            frames of one shape at a time, and the same for all frames of a clip.
        start, end: of the clip in seconds; the whole file when not given.

    Raises:
        DecodeError: as ``chosen_frames``.
    """
    with Video(path, "auto") as video:
        parts = chosen_frames(video, choice, start, end)
        chunks = [(preprocess(part.pixels, part.aspect), part.seconds) for part in parts]
    pixels, seconds = zip(*chunks, strict=True)
    return ClipPixels(torch.cat(pixels), torch.from_numpy(np.concatenate(seconds)))
