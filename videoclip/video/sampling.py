"""Which frames of a clip to take: pure functions from frame times to frame indices.

``times`` is either the presentation times of the clip's N frames in seconds, ascending, or just N for frames that
are evenly spaced. Wishes are made on the time axis and answered with the nearest frame (the later one of two equally
near), so a variable frame rate needs no special case. A clip's time reaches half a mean frame gap beyond its first and
last frame. Every function returns ``Sampled``: exactly the agreed number of indices, ascending, in range; a clip with
fewer frames than wanted gives each frame once and pads under a False mask.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

Array = np.ndarray
Times = int | Sequence[float] | Array


@dataclass(frozen=True)
class Sampled:
    """Frames chosen: indices (T,) int64 and mask (T,) bool; indices under a False mask are the last real one."""

    indices: Array
    mask: Array

    @property
    def real(self) -> Array:
        """The indices without padding."""
        return self.indices[self.mask]


def uniform(times: Times, frames: int) -> Sampled:
    """The middle of each of ``frames`` equal segments of the clip's time."""
    return _in_segments(times, frames, np.full(frames, 0.5))


def random_in_segments(times: Times, frames: int, generator: np.random.Generator) -> Sampled:
    """One random moment in each of ``frames`` equal segments: for training."""
    return _in_segments(times, frames, generator.random(frames))


def fixed_rate(times: Times, fps: float) -> Sampled:
    """A frame every 1 / ``fps`` seconds from the first one on; at least one, none twice."""
    seconds = _seconds(times)
    if fps <= 0:
        raise ValueError(f"fps must be positive, not {fps}.")
    wishes = np.arange(seconds[0], seconds[-1] + _gap(seconds) / 2 + 1e-9, 1 / fps)
    indices = np.unique(nearest(seconds, wishes))
    return Sampled(indices, np.ones(len(indices), bool))


def dense(times: Times, frames: int, stride: int, generator: np.random.Generator | None = None) -> Sampled:
    """``frames`` frames, ``stride`` apart: the middle of the clip, or a random place when a generator is given.

    Recognition's k x stride sampling, in frames rather than seconds. A clip shorter than the window starts at its
    first frame and pads.
    """
    count = len(_seconds(times))
    slack = max(0, count - ((frames - 1) * stride + 1))
    start = slack // 2 if generator is None else int(generator.integers(slack + 1))
    return _padded(np.arange(start, count, stride)[:frames], frames)


def clip4clip(
    count: int,
    fps: float,
    frames: int,
    rate: int = 1,
    start: int | None = None,
    end: int | None = None,
    keep: Literal["first", "last", "spread"] = "spread",
) -> Sampled:
    """CLIP4Clip's own rule (Luo et al., 2021), to repeat its experiments.

    ``rate`` frames are read in each whole second, counted with the frame rate cut to an integer, from ``start`` to
    ``end`` inclusive (seconds); then at most ``frames`` of them are kept.

    Args:
        count: frames in the file.
        fps: its frame rate.
        frames: the most frames to keep (max_frames).
        rate: frames a second (feature_framerate).
        start, end: whole seconds; the file from its beginning to its end when not given.
        keep: slice_framepos 0, 1 and 2: ``first``, ``last``, or ``spread`` as linspace cut to integers.
    """
    indices = clip4clip_candidates(count, fps, rate, start, end)
    if len(indices) > frames:
        spread = np.linspace(0, len(indices) - 1, frames).astype(int)
        indices = {"first": indices[:frames], "last": indices[-frames:], "spread": indices[spread]}[keep]
    return _padded(indices, frames)


def clip4clip_candidates(
    count: int, fps: float, rate: int = 1, start: int | None = None, end: int | None = None
) -> Array:
    """The frame indices (N,) that CLIP4Clip reads from a file before it keeps at most ``frames`` of them."""
    whole = max(1, int(fps))
    first = 0 if start is None else start
    last = -(-count // whole) - 1 if end is None else end
    within = np.arange(0, whole, max(1, whole // rate))[:rate]
    indices = (np.arange(first, last + 1)[:, None] * whole + within).ravel()
    return indices[indices < count]


def nearest(times: Array, wishes: Array | Sequence[float]) -> Array:
    """Index of the frame nearest to each wish, the later one of two equally near."""
    middles = (times[1:] + times[:-1]) / 2
    return np.searchsorted(middles, np.asarray(wishes, float) + 1e-9, side="right")


def _in_segments(times: Times, frames: int, inside: Array) -> Sampled:
    seconds = _seconds(times)
    if frames < 1:
        raise ValueError(f"at least one frame must be wanted, not {frames}.")
    if len(seconds) <= frames:
        return _padded(np.arange(len(seconds)), frames)
    gap = _gap(seconds)
    low, length = seconds[0] - gap / 2, seconds[-1] - seconds[0] + gap
    indices = nearest(seconds, low + (np.arange(frames) + inside) * length / frames)
    return Sampled(indices, np.ones(frames, bool))


def _seconds(times: Times) -> Array:
    seconds = np.arange(times, dtype=float) if isinstance(times, int | np.integer) else np.asarray(times, float)
    if not len(seconds):
        raise ValueError("the clip has no frame.")
    return seconds


def _gap(seconds: Array) -> float:
    return float(seconds[-1] - seconds[0]) / max(1, len(seconds) - 1)


def _padded(indices: Array, frames: int) -> Sampled:
    if not len(indices):
        raise ValueError("the clip has no frame in the wanted stretch.")
    missing = frames - len(indices)
    mask = np.arange(frames) < len(indices)
    return Sampled(np.concatenate([indices, np.repeat(indices[-1:], missing)]).astype(np.int64), mask)
