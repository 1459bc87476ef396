"""Video files for tests, in every codec and container at hand; every frame carries its own number."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av

from tests.helpers.numbered import numbered
from videoclip.video.encode import write_video

COUNT = 60
ENCODINGS: dict[str, tuple[str, dict[str, str], str]] = {
    "h264_b_frames.mp4": ("libx264", {"g": "12", "bf": "3", "sc_threshold": "0"}, "yuv420p"),
    "h264_no_b_frames.mkv": ("libx264", {"g": "30", "bf": "0"}, "yuv420p"),
    "h264_one_group.mp4": ("libx264", {"g": "250"}, "yuv420p"),
    "h264_open_gop.mp4": ("libx264", {"g": "12", "bf": "3", "x264-params": "open-gop=1"}, "yuv420p"),
    "h264.flv": ("libx264", {"g": "12", "bf": "2"}, "yuv420p"),
    "h264_in.avi": ("libx264", {"g": "12", "bf": "0"}, "yuv420p"),
    "hevc_closed_gop.mp4": ("libx265", {"x265-params": "keyint=12:open-gop=0:log-level=none"}, "yuv420p"),
    "h264_transport.ts": ("libx264", {"g": "12", "bf": "2"}, "yuv420p"),
    "h264_raw.h264": ("libx264", {"g": "12", "bf": "0"}, "yuv420p"),
    "h264_ten_bit.mp4": ("libx264", {"g": "12"}, "yuv420p10le"),
    "h264_444.mp4": ("libx264", {"g": "12"}, "yuv444p"),
    "hevc.mp4": ("libx265", {"x265-params": "keyint=12:log-level=none"}, "yuv420p"),
    "vp8.webm": ("libvpx", {"g": "12", "crf": "4", "b": "4M"}, "yuv420p"),
    "vp9.webm": ("libvpx-vp9", {"g": "12"}, "yuv420p"),
    "av1.mkv": ("libsvtav1", {"g": "12"}, "yuv420p"),
    "mpeg4.avi": ("mpeg4", {"g": "12", "q": "3"}, "yuv420p"),
    "mpeg4_b_frames.avi": ("mpeg4", {"g": "12", "q": "3", "bf": "2"}, "yuv420p"),
    "mpeg2.mpg": ("mpeg2video", {"g": "12", "qmin": "2", "qmax": "3"}, "yuv420p"),
    "one_frame.mp4": ("libx264", {}, "yuv420p"),
}
# What cannot be written in one go -> how it is made of an ordinary file, and the time of its first frame.
REMUXED: dict[str, tuple[Callable[[Path, Path], None], float]] = {}


def remuxed(name: str, first: float = 0.0) -> Callable[[Callable[[Path, Path], None]], None]:
    """Register a function that makes a file of another one."""

    def register(make: Callable[[Path, Path], None]) -> None:
        REMUXED[name] = (make, first)

    return register


def write_all(folder: Path) -> None:
    """Write every file of ``ENCODINGS`` and ``REMUXED``: 60 frames at 25 a second."""
    for name, (codec, options, pixel_format) in ENCODINGS.items():
        write_video(folder / name, numbered(1 if name.startswith("one_") else COUNT), 25, codec, options, pixel_format)
    for name, (make, _) in REMUXED.items():
        make(folder / "h264_b_frames.mp4", folder / name)


@remuxed("start_at_3s.mkv", 3.0)
def _start_offset(source: Path, target: Path) -> None:
    shift(source, target, 3.0)


@remuxed("start_at_3s.mp4", 3.0)
def _start_offset_mp4(source: Path, target: Path) -> None:
    shift(source, target, 3.0)


@remuxed("negative_start.mkv", -0.52)
def _negative_start(source: Path, target: Path) -> None:
    shift(source, target, -0.52, {"avoid_negative_ts": "disabled"})


@remuxed("fragmented.mp4", 0.08)
def _fragmented(source: Path, target: Path) -> None:
    shift(source, target, 0.0, {"movflags": "frag_keyframe+empty_moov"})


@remuxed("rotated.mp4")
def _rotated(source: Path, target: Path) -> None:
    """Turn the picture by the matrix in the track header: a quarter turn, as phones write it."""
    content = bytearray(source.read_bytes())
    at = content.index(b"tkhd") + 4 + 4 + 20 + 8 + 8
    content[at : at + 36] = b"".join(
        value.to_bytes(4, "big", signed=True) for value in (0, 65536, 0, -65536, 0, 0, 0, 0, 1 << 30)
    )
    target.write_bytes(content)


def shift(source: Path, target: Path, seconds: float, options: dict[str, str] | None = None) -> None:
    """Copy packets with all times moved."""
    with av.open(str(source)) as old, av.open(str(target), "w", options=options or {}) as new:
        stream = old.streams.video[0]
        copy = new.add_stream_from_template(stream)
        for packet in old.demux(stream):
            if packet.size:
                assert packet.pts is not None and packet.dts is not None and stream.time_base is not None
                moved = round(seconds / stream.time_base)
                packet.pts, packet.dts, packet.stream = packet.pts + moved, packet.dts + moved, copy
                new.mux(packet)


def write_edit_list(path: Path, hidden: float = 0.7) -> None:
    """Sixty frames of which an edit list hides those before ``hidden`` seconds, as cutting without decoding leaves it."""
    whole = path.with_name("whole_" + path.name)
    write_video(whole, numbered(COUNT), 25, "libx264", {"g": "12", "bf": "0"})
    shift(whole, path, -hidden, {"use_editlist": "1"})


def write_variable_rate(path: Path, times: list[float]) -> None:
    """Frame i is shown at ``times[i]`` seconds."""
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("libx264", Fraction(25), options={"g": "12", "bf": "2"})
        stream.height, stream.width, stream.pix_fmt = 64, 96, "yuv420p"
        stream.codec_context.time_base = Fraction(1, 1000)
        for picture, seconds in zip(numbered(len(times)), times, strict=True):
            frame = av.VideoFrame.from_ndarray(picture, "rgb24")
            frame.pts, frame.time_base = round(seconds * 1000), Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
