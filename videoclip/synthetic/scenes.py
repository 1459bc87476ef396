"""Coloured shapes drawn with numpy: the pictures behind the moving-shapes videos and the tiny CLIP.

Coordinates run from 0 to 1, x to the right and y downwards; a radius is a share of the picture's side.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

Array = np.ndarray

COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (220, 40, 40),
    "green": (40, 170, 60),
    "blue": (50, 90, 230),
    "yellow": (240, 220, 50),
    "purple": (140, 60, 180),
    "orange": (245, 140, 30),
    "cyan": (60, 210, 220),
    "pink": (250, 150, 190),
}
BACKGROUNDS: dict[str, tuple[int, int, int]] = {
    "black": (10, 10, 10),
    "white": (245, 245, 245),
    "grey": (125, 125, 125),
    "brown": (95, 65, 40),
}
SIZES = {"small": 0.15, "large": 0.26}


def _triangle(x: Array, y: Array) -> Array:
    return np.maximum(y / 0.6, (np.abs(x) * 0.866 - y * 0.5) / 0.6)


def _cross(x: Array, y: Array) -> Array:
    x, y = np.abs(x), np.abs(y)
    return np.minimum(np.maximum(x / 0.32, y), np.maximum(x, y / 0.32))


# A gauge is below 1 inside the shape, 1 on its edge and above 1 outside, for coordinates in units of the radius.
SHAPES: dict[str, Callable[[Array, Array], Array]] = {
    "circle": np.hypot,
    "square": lambda x, y: np.maximum(np.abs(x), np.abs(y)) / 0.85,
    "triangle": _triangle,
    "bar": lambda x, y: np.maximum(np.abs(x), np.abs(y) / 0.35),
    "cross": _cross,
    "ring": lambda x, y: 0.5 + np.abs(np.hypot(x, y) - 0.75) / 0.5,
}


@dataclass(frozen=True)
class Frames:
    """N pictures of one shape: where it is, how large, in which colour.

    Attributes:
        centres: (N, 2) x and y.
        radii: (N,), 0 draws nothing.
        colours: (N, 3) RGB.
        background: (N, 3) RGB.
    """

    shape: str
    centres: Array
    radii: Array
    colours: Array
    background: Array


def draw(frames: Frames, side: int) -> Array:
    """Draw N antialiased pictures: (N, side, side, 3) uint8."""
    grid = (np.arange(side, dtype=np.float32) + 0.5) / side
    radii = np.maximum(frames.radii, 1e-6).astype(np.float32)[:, None, None]
    x = (grid[None, None, :] - frames.centres[:, 0, None, None].astype(np.float32)) / radii
    y = (grid[None, :, None] - frames.centres[:, 1, None, None].astype(np.float32)) / radii
    gauge = SHAPES[frames.shape](*np.broadcast_arrays(x, y))
    cover = np.clip((1 - gauge) * radii * side + 0.5, 0, 1)[..., None]
    cover = cover * (frames.radii > 0)[:, None, None, None]
    background = frames.background[:, None, None, :].astype(np.float32)
    return np.round(background + cover * (frames.colours[:, None, None, :] - background)).astype(np.uint8)
