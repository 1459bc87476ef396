"""Frames that carry their own number, so that a decoder's mistakes show."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

BITS = 16


def numbered(count: int, height: int = 64, width: int = 96, first: int = 0) -> np.ndarray:
    """Frames (count, H, W, 3) that carry their own number as a bar code of 16 gray blocks."""
    bits = (np.arange(first, first + count)[:, None] >> np.arange(BITS)) & 1
    block = width // BITS
    frames = np.full((count, height, width, 3), 128, np.uint8)
    frames[:, :, : BITS * block] = np.repeat(np.where(bits, 235, 20), block, axis=1)[:, None, :, None]
    return frames


def long_frames(count: int) -> Iterator[np.ndarray]:
    """Numbered frames without holding them all."""
    for start in range(0, count, 500):
        yield from numbered(min(500, count - start), first=start)


def numbers_of(frames: np.ndarray) -> list[int]:
    """Read the numbers that frames made by ``numbered`` carry."""
    block = frames.shape[2] // BITS
    center = frames[:, frames.shape[1] // 2, block // 2 : BITS * block : block].mean(-1)
    return [int(((row > 128) << np.arange(BITS)).sum()) for row in center]
