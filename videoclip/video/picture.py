"""The way from a stored picture to the shown one: turned and mirrored by a display matrix, with pixels of any shape.

Pictures keep the grid of pixels that the file stores, turned upright. Their pixels may be wider or higher than square
ones (anamorphic video); the image transform takes that into account in its one resize, see ``preprocess``. Crop
rectangles of a codec (H.264, HEVC) are applied by its decoder. Those of a container (``clap`` of MP4, ``PixelCrop`` of
Matroska) are not applied: neither PyAV nor decord reports them, and they hide a few columns at the edge at most.
"""

from __future__ import annotations

from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np

Array = np.ndarray
MOST_UNEVEN = 8  # an aspect beyond 8:1 is an error of the file: 2:1 lenses, half-height fields and DVD stay far below
CHROMA_IN_FULL = 0x2 | 0x2000  # FFmpeg's SWS_BILINEAR and SWS_FULL_CHR_H_INT


class Orientation(NamedTuple):
    """The way to turn a stored picture upright: rows and columns are exchanged first, then sides are mirrored."""

    transposed: bool = False
    mirrored: bool = False
    flipped: bool = False

    @property
    def mirrors(self) -> bool:
        """Whether it takes more than a rotation."""
        return self.transposed ^ self.mirrored ^ self.flipped

    def __str__(self) -> str:
        turn = 2 * self.flipped + self.transposed  # quarters; what is left to do then is to exchange left and right
        names = ([f"turned by {90 * turn} degrees clockwise"] if turn else []) + ["mirrored"] * self.mirrors
        return ", then ".join(names) or "upright"

    def apply(self, picture: Array) -> Array:
        """Turn a picture (H, W, 3) upright."""
        turned = picture.transpose(1, 0, 2) if self.transposed else picture
        return turned[:: -1 if self.flipped else 1, :: -1 if self.mirrored else 1]


def orientation_of(frame: Any) -> Orientation:
    """Return the orientation of a decoded frame by its display matrix: the nearest of the eight that keep right angles.

    The matrix [a b u; c d v; x y w] takes the stored place (p, q) to (a p + c q, b p + d q) on the screen.
    """
    matrix = frame.side_data.get("DISPLAYMATRIX")
    if matrix is None:
        return Orientation()
    a, b, _, c, d = np.frombuffer(bytes(matrix), np.int32, count=5).tolist()
    if abs(b) + abs(c) > abs(a) + abs(d):
        return Orientation(True, c < 0, b < 0)
    return Orientation(False, a < 0, d < 0)


def pixels_of(frame: Any) -> Array:
    """Convert a decoded frame to RGB pixels (H, W, 3) on its stored grid.

    Pictures of more than 8 bits pass FFmpeg's general scaler, which by default gives two neighboring pixels one color;
    told to compute the color of each, it equals exact arithmetic to rounding (tested). Those of 8 bits pass its fast
    converter, which repeats colors in the same way in PyAV, decord and FFmpeg's own tools.
    """
    deep = max(component.bits for component in frame.format.components) > 8
    pixels: Array = frame.to_ndarray(format="rgb24", **({"interpolation": CHROMA_IN_FULL} if deep else {}))
    return pixels


def sane(aspect: Fraction | None) -> Fraction:
    """Return a pixel's width over its height; square where a file says nothing, or nothing that can be meant."""
    if not aspect or not Fraction(1, MOST_UNEVEN) <= aspect <= MOST_UNEVEN:
        return Fraction(1)
    return Fraction(aspect)


def shown_size(height: int, width: int, aspect: float) -> tuple[int, int]:
    """Return height and width in square pixels: one side is enlarged, so that nothing is lost."""
    if aspect >= 1:
        return height, round(width * aspect)
    return round(height / aspect), width
