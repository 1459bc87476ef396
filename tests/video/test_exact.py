"""Numbers against independent references: colors against exact arithmetic, the fast resize against Pillow."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from videoclip.video.picture import pixels_of
from videoclip.video.preprocess import Preprocess

# Red and blue shares of the luma, by FFmpeg's number of the color matrix: BT.709, BT.601, BT.2020.
SHARES = {1: (0.2126, 0.0722), 6: (0.299, 0.114), 9: (0.2627, 0.0593)}
JPEG = 2  # FFmpeg's number of the full range


def plane(frame: av.VideoFrame, number: int) -> np.ndarray:
    """The values of a plane (H, W)."""
    source = frame.planes[number]
    kind = np.uint16 if frame.format.components[0].bits > 8 else np.uint8
    return np.frombuffer(bytes(source), kind).reshape(source.height, -1)[:, : source.width].astype(float)


def between(values: np.ndarray, places: np.ndarray, axis: int) -> np.ndarray:
    """Values at fractional places of an axis, from the two nearest; at the edge, those of the edge."""
    places = places.clip(0, values.shape[axis] - 1)
    low = np.floor(places).astype(int)
    high = np.minimum(low + 1, values.shape[axis] - 1)
    share = np.expand_dims(places - low, 1 - axis)
    return values.take(low, axis) * (1 - share) + values.take(high, axis) * share


def exact(frame: av.VideoFrame) -> np.ndarray:
    """RGB (H, W, 3) of a frame by the formulas of BT.601, BT.709 and BT.2020, chroma to the left of its pixels."""
    bits = frame.format.components[0].bits
    luma, blue, red = (plane(frame, number) for number in range(3))
    height, width = luma.shape
    if blue.shape[1] < width:
        blue, red = (between(chroma, np.arange(width) / 2, 1) for chroma in (blue, red))
    if blue.shape[0] < height:
        blue, red = (between(chroma, (np.arange(height) - 0.5) / 2, 0) for chroma in (blue, red))
    top, scale = 2**bits - 1, 2.0 ** (bits - 8)
    if frame.color_range == JPEG:
        y, u, v = luma / top, (blue - (top + 1) / 2) / top, (red - (top + 1) / 2) / top
    else:
        y, u, v = (luma / scale - 16) / 219, (blue / scale - 128) / 224, (red / scale - 128) / 224
    of_red, of_blue = SHARES[frame.colorspace]
    r, b = y + 2 * (1 - of_red) * v, y + 2 * (1 - of_blue) * u
    g = (y - of_red * r - of_blue * b) / (1 - of_red - of_blue)
    return np.clip(np.stack([r, g, b], -1) * 255, 0, 255)


def decoded(path: Path, kind: str, matrix: str, full: str) -> av.VideoFrame:
    """A frame of random colors, encoded and decoded; its decoder says where chroma lies."""
    codec = "libx265" if "12" in kind else "libx264"
    names = {"libx264": "x264-params", "libx265": "x265-params"}
    options = {names[codec]: f"crf=4:colormatrix={matrix}:{full}:log-level=none"}
    colors = np.random.default_rng(0).integers(40, 216, (16, 24, 3), np.uint8).repeat(4, 0).repeat(4, 1)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, 10, options=options)
        stream.width, stream.height, stream.pix_fmt = 96, 64, kind
        container.mux(stream.encode(av.VideoFrame.from_ndarray(colors, "rgb24")))
        container.mux(stream.encode(None))
    with av.open(str(path)) as container:
        return next(container.decode(video=0))


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("matrix", ["bt709", "smpte170m", "bt2020nc"])
@pytest.mark.parametrize("kind", ["yuv420p10le", "yuv422p10le", "yuv444p10le", "yuv420p12le"])
def test_colors_of_deep_frames_are_exact_to_rounding(tmp_path: Path, kind: str, matrix: str, full: bool) -> None:
    word = f"fullrange={'on' if full else 'off'}" if "10" in kind else f"range={'full' if full else 'limited'}"
    frame = decoded(tmp_path / "v.mp4", kind, matrix, word)
    assert frame.format.name == kind and (frame.color_range == JPEG) == full
    off, default = (np.abs(pixels - exact(frame)) for pixels in (pixels_of(frame), frame.to_ndarray(format="rgb24")))
    assert off.max() < 1.5 and off.mean() < 0.5
    if "444" not in kind:
        assert default.mean() > 3 * off.mean()


@given(
    size=st.tuples(st.integers(8, 700), st.integers(8, 700)),
    target=st.tuples(st.integers(16, 240), st.integers(16, 240)) | st.integers(16, 240).map(lambda side: (side, side)),
    mode=st.sampled_from(["shortest", "longest", "squash"]),
    interpolation=st.sampled_from(["bicubic", "bilinear"]),
    aspect=st.sampled_from([1.0, 64 / 45, 0.6]),
    seed=st.integers(0, 9),
)
@settings(max_examples=60, deadline=None, derandomize=True)
def test_the_fast_resize_keeps_its_promise(
    size: tuple[int, int], target: tuple[int, int], mode: str, interpolation: str, aspect: float, seed: int
) -> None:
    """Within 2 levels of Pillow for every size, shape and mode, on noise, where the order of the axes shows most."""
    clip = np.random.default_rng(seed).integers(0, 256, (1, *size, 3), np.uint8)
    fast = Preprocess(target, interpolation=interpolation, resize_mode=mode)
    pillow = Preprocess(target, interpolation=interpolation, resize_mode=mode, resize="pillow")
    assert (fast(clip, aspect).int() - pillow(clip, aspect).int()).abs().max() <= 2


@pytest.mark.parametrize("size", [(320, 180), (640, 360), (1280, 720), (500, 224), (300, 100)])
@pytest.mark.parametrize("mode", ["shortest", "longest", "squash"])
def test_the_fast_resize_of_portrait_pictures(size: tuple[int, int], mode: str) -> None:
    clip = np.random.default_rng(0).integers(0, 256, (2, *size, 3), np.uint8)
    fast, pillow = (Preprocess(resize_mode=mode, resize=way) for way in ("fast", "pillow"))  # type: ignore[arg-type]
    assert (fast(clip).int() - pillow(clip).int()).abs().max() <= 2
