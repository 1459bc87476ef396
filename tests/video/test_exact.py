"""Numbers against independent references: colors against FFmpeg's filters and exact arithmetic, sizes against Pillow."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from videoclip.video.decode import Colors, read_frames
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
    """RGB (H, W, 3) of a frame by the formulas of BT.601, BT.709 and BT.2020, chroma in the middle of its pixels."""
    bits = frame.format.components[0].bits
    luma, blue, red = (plane(frame, number) for number in range(3))
    height, width = luma.shape
    if blue.shape[1] < width:
        blue, red = (between(chroma, (np.arange(width) - 0.5) / 2, 1) for chroma in (blue, red))
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


def encoded(path: Path, kind: str, matrix: str, full: bool) -> Path:
    """Three pictures of smooth colors, on which ways to interpolate chroma hardly differ."""
    deep = "12" in kind
    y, x = np.mgrid[:64, :96]
    waves = [128 + 80 * np.sin(x / (40 + 9 * c) + y / (30 + 8 * c) + 2 * c) for c in range(3)]
    colors = np.stack(waves, -1).astype(np.uint8)
    word = f"range={'full' if full else 'limited'}" if deep else f"fullrange={'on' if full else 'off'}"
    options = {"x265-params" if deep else "x264-params": f"crf=4:colormatrix={matrix}:{word}:log-level=none"}
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx265" if deep else "libx264", 10, options=options)
        stream.width, stream.height, stream.pix_fmt = 96, 64, kind
        for _ in range(3):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(colors, "rgb24")))
        container.mux(stream.encode(None))
    return path


def filtered(path: Path) -> np.ndarray:
    """The first picture (H, W, 3) of a file, converted by FFmpeg's own default filters."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        graph = av.filter.Graph()
        graph.link_nodes(
            graph.add_buffer(stream), graph.add("scale"), graph.add("format", "rgb24"), graph.add("buffersink")
        ).configure()
        graph.push(next(container.decode(stream)))
        return graph.pull().to_ndarray()


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("matrix", ["bt709", "smpte170m", "bt2020nc"])
@pytest.mark.parametrize("kind", ["yuv420p10le", "yuv422p10le", "yuv444p10le", "yuv420p12le"])
def test_colors_of_deep_frames_are_those_of_ffmpeg(tmp_path: Path, kind: str, matrix: str, full: bool) -> None:
    path = encoded(tmp_path / "v.mp4", kind, matrix, full)
    picture = read_frames(path, indices=[0]).pixels[0]
    assert np.array_equal(picture, filtered(path))
    with av.open(str(path)) as container:
        frame = next(container.decode(video=0))
    assert frame.format.name == kind and (frame.color_range == JPEG) == full
    # Where pixels share chroma FFmpeg's scaler is 2 levels too dark; a wrong matrix or range is further off.
    assert np.abs(picture - exact(frame)).mean() < (0.5 if "444" in kind else 2.5)


def test_deep_frames_may_change_their_size() -> None:
    colors = Colors()
    for height, width in ((32, 48), (48, 64), (32, 48)):
        frame = av.VideoFrame.from_ndarray(np.full((height, width, 3), 90, np.uint8), "rgb24").reformat(
            format="yuv420p10le"
        )
        assert colors(frame).shape == (height, width, 3)


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
