"""Writing video files with PyAV: for the synthetic videos and for tests."""

from __future__ import annotations

from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np


def write_video(
    path: str | Path,
    frames: Iterable[np.ndarray],
    fps: float,
    codec: str = "libx264",
    options: dict[str, str] | None = None,
    pixel_format: str = "yuv420p",
) -> None:
    """Encode frames, T of (H, W, 3) uint8, at a constant rate; the container follows the file's suffix.

    Args:
        options: of the encoder, such as ``{"crf": "18", "g": "12", "bf": "0"}``.
        pixel_format: 4:2:0 formats need even sides.
    """
    import av

    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream(codec, Fraction(fps).limit_denominator(1001), options=options or {})
        stream.pix_fmt = pixel_format
        stream.thread_count = 1  # small pictures: threads cost more than they give
        for number, picture in enumerate(frames):
            if not number:
                stream.height, stream.width = picture.shape[:2]
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, "rgb24")))
        container.mux(stream.encode(None))
