"""A look at a video file's packets, without decoding: which frames it holds, when they are shown, who may decode it.

decord 0.6.0 is exact on ordinary files, but wrong without a word on open GOPs, edit lists, AVI, transport streams and
files that start before zero, it has no AV1, and 10-bit video differs between decoders; all of those go to PyAV.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.util
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import numpy as np

from videoclip.errors import DecodeError

Array = np.ndarray
Decoder = Literal["auto", "decord", "pyav"]

INDEXED_CONTAINERS = {"mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm", "flv"}  # others are read from their beginning
DECORD_CODECS = {"h264", "hevc", "vp8", "vp9", "mpeg4", "mpeg2video", "msmpeg4v3", "h263", "mjpeg", "flv1"}
EIGHT_BIT = {"yuv420p", "yuvj420p", "yuv422p", "yuvj422p", "yuv444p", "yuvj444p"}
IDR = 5  # the NAL unit type of a picture after which nothing refers to anything before it
SHORT_SECONDS, SHORT_SHARE = 0.5, 0.05  # a file is short if it lacks more than both of what it promises


@dataclass(frozen=True)
class VideoInfo:
    """What a look at a file's packets tells, and who will decode it.

    Attributes:
        times: (N,) presentation time of each frame in seconds, ascending.
        pts: (N,) how a decoded frame is recognised: its time in the stream's time base, or its place in the order of
            appearance where ``by_order``.
        entries: pts at which decoding may start; none if the file must be read from its beginning.
        keys: indices (K,) of the key frames.
        decoder: ``decord`` or ``pyav``.
        reason: why decord may not read it, empty if it may.
        by_order: frames are told by the order in which they come out, because their own times are missing (raw
            streams), shared (program streams) or belong to other pictures (AVI).
        duration: seconds that the file claims for its pictures, None if it claims nothing.
        span: seconds from the first frame, or from 0 if it is later, to the end of the last one.
    """

    path: Path
    times: Array
    pts: Array
    entries: Array
    keys: Array
    decoder: str
    reason: str
    codec: str
    container: str
    by_order: bool
    duration: float | None
    span: float

    @property
    def short(self) -> bool:
        """Whether the file holds clearly less than it claims, as a truncated one does."""
        missing = 0.0 if self.duration is None else self.duration - self.span
        return missing > SHORT_SECONDS and missing > SHORT_SHARE * (self.duration or 0)

    def stretch(self, start: float | None = None, end: float | None = None) -> Array:
        """Indices of the frames shown from ``start`` up to, not including, ``end`` (seconds).

        Raises:
            DecodeError: there is none.
        """
        inside = np.flatnonzero(
            (self.times >= (-np.inf if start is None else start - 1e-6))
            & (self.times < (np.inf if end is None else end - 1e-6))
        )
        if not len(inside):
            span = f"{self.times[0]:.2f} to {self.times[-1]:.2f} s"
            raise DecodeError("probe", f"{self.path}: no frame between {start} and {end} s; the file runs from {span}.")
        return inside


def open_container(path: Path) -> tuple[Any, Any]:
    """Open a file with PyAV: the container and its video stream.

    Raises:
        DecodeError: the file is missing, empty, a folder, or holds no video.
    """
    import av

    if path.is_dir():
        raise DecodeError("open", f"{path}: is a folder, not a video file.")
    try:
        if path.stat().st_size == 0:
            raise DecodeError("open", f"{path}: is empty (0 bytes).")
        container = av.open(str(path), metadata_errors="replace")
    except FileNotFoundError as error:
        raise DecodeError("open", f"{path}: there is no such file.") from error
    except (av.error.FFmpegError, OSError) as error:
        raise DecodeError("open", f"{path}: cannot be opened as a video ({error.strerror or error}).") from error
    stream = container.streams.best("video")
    if stream is None:
        held = ", ".join(sorted({s.type for s in container.streams})) or "nothing readable"
        container.close()
        raise DecodeError("probe", f"{path}: holds no video stream, only {held}.")
    stream.thread_type = "NONE"  # many files are read at once by many processes, one thread each
    return container, stream


def packets_of(container: Any, stream: Any) -> Iterator[Any]:
    """The packets of a stream, as far as the file can be read; what is missing shows in ``VideoInfo.short``."""
    import av

    with contextlib.suppress(av.error.FFmpegError):
        yield from container.demux(stream)


def look(container: Any, stream: Any, path: Path, decoder: Decoder) -> VideoInfo:
    """Read all packets of an open file once; it then stands at its end.

    Raises:
        DecodeError: no frame is there, or decord was asked for where it is wrong.
    """
    packets = _Packets(container, stream)
    if not packets.shown.any():
        raise DecodeError("probe", f"{path}: the video stream holds no frame.")
    base = float(stream.time_base)
    by_order = container.format.name == "avi" or not packets.told.all() or packets.share_times
    pts = np.arange(packets.shown.sum()) if by_order else np.sort(packets.pts[packets.shown])
    times = _clock(packets, container, stream) if by_order else pts * base
    reason = _why_not_decord(container, stream, packets, by_order)
    if decoder == "decord" and reason:
        raise DecodeError("probe", f"{path}: decord would read wrong frames ({reason}); use decoder auto or pyav.")
    seekable = container.format.name in INDEXED_CONTAINERS and not by_order
    # Started in the middle of an H.264 stream with open GOPs, the decoder hands out wrong pictures under right times.
    seekable = seekable and not (stream.codec_context.name == "h264" and packets.open_gop)
    key_pts = np.unique(packets.pts[packets.shown & packets.key])
    last = packets.last_duration * base or (times[-1] - times[0]) / max(1, len(times) - 1)
    return VideoInfo(
        path=path,
        times=times,
        pts=pts,
        entries=np.sort(packets.pts[packets.key]) if seekable else pts[:0],
        keys=np.flatnonzero(packets.key[packets.shown]) if by_order else np.searchsorted(pts, key_pts),
        decoder="pyav" if reason or decoder == "pyav" else "decord",
        reason=reason,
        codec=stream.codec_context.name,
        container=container.format.name,
        by_order=by_order,
        duration=_claimed(container, stream),
        span=float(times[-1] + last - min(0.0, times[0])),
    )


class _Packets:
    """The packets of a video stream in the order of decoding, without their content: arrays (N,)."""

    def __init__(self, container: Any, stream: Any) -> None:
        pts, dts, key, shown, told = array("q"), array("q"), array("b"), array("b"), array("b")
        extra = bytes(stream.codec_context.extradata or b"")
        h264 = stream.codec_context.name == "h264"
        self.open_gop, self.last_duration = False, 0
        after, last = None, None
        for packet in packets_of(container, stream):
            if not packet.size:
                continue
            told.append(packet.pts is not None)
            time = packet.pts if packet.pts is not None else packet.dts if packet.dts is not None else len(pts)
            # No clean start: a frame shown before the key frame follows it, or H.264 does not call it IDR.
            if packet.is_keyframe:
                after = time
                self.open_gop |= h264 and IDR not in _h264_units(bytes(packet), extra)
            else:
                self.open_gop |= after is None or time < after
            if last is None or time >= last:
                last, self.last_duration = time, packet.duration or 0
            pts.append(time)
            dts.append(packet.dts if packet.dts is not None else len(dts))
            key.append(packet.is_keyframe)
            shown.append(not packet.is_discard)
        self.pts, self.dts = np.array(pts), np.array(dts)
        self.key, self.shown, self.told = np.array(key, bool), np.array(shown, bool), np.array(told, bool)
        self.share_times = len(np.unique(self.pts)) < len(self.pts)


def _clock(packets: _Packets, container: Any, stream: Any) -> Array:
    """Times (N,) of frames that are told by their order, as far as the packets tell them."""
    base, rate = float(stream.time_base), float(stream.average_rate or 25)
    if container.format.name == "avi":  # numbers pictures as stored: its decoding times tick with the pictures shown
        ticks = np.sort(packets.dts[packets.shown])
        return ticks * base if (np.diff(ticks) > 0).all() else np.arange(len(ticks)) / rate
    told = np.sort(packets.pts[packets.shown & packets.told]) * base
    untold = packets.shown.sum() - len(told)  # before time zero, or all of a raw stream
    before = np.arange(-untold, 0) / rate
    return np.concatenate([before + told[0], told]) if len(told) else before - before[0]


def _claimed(container: Any, stream: Any) -> float | None:
    """Seconds that the file promises for its pictures; the stream's own word comes first, since sound may be longer."""
    if container.format.name == "avi" and stream.frames and stream.average_rate:
        return stream.frames / float(stream.average_rate)  # its duration is guessed from what is left of the file
    if stream.duration:
        return float(stream.duration * stream.time_base)
    tag = stream.metadata.get("DURATION", "")  # Matroska
    if tag.count(":") == 2:
        hours, minutes, seconds = tag.split(":")
        return int(hours) * 3600 + int(minutes) * 60 + float(seconds)
    return container.duration / 1_000_000 if container.duration else None


def _why_not_decord(container: Any, stream: Any, packets: _Packets, by_order: bool) -> str:
    context = stream.codec_context
    checks = (
        (not has_decord(), "decord is not installed"),
        (container.format.name not in INDEXED_CONTAINERS, f"container {container.format.name}"),
        (by_order, "no presentation times"),
        (context.name not in DECORD_CODECS, f"codec {context.name}"),
        (context.pix_fmt not in EIGHT_BIT, f"pixel format {context.pix_fmt}"),
        (len(container.streams.video) > 1, "several video streams"),
        (not packets.shown.all(), "an edit list hides frames"),
        (packets.pts.min() < 0, "starts before time zero"),
        (packets.share_times, "frames that share a time"),
        (packets.open_gop, "open GOP"),
    )
    return next((reason for applies, reason in checks if applies), "")


def _h264_units(packet: bytes, extra: bytes) -> set[int]:
    """Types of the NAL units in a packet: after start codes, or after lengths if the stream's header says so."""
    if not extra.startswith(b"\x01"):
        return {part[0] & 31 for part in packet.split(b"\x00\x00\x01")[1:] if part}
    size, at, types = (extra[4] & 3) + 1, 0, set()
    while at + size < len(packet):
        types.add(packet[at + size] & 31)
        at += size + int.from_bytes(packet[at : at + size], "big")
    return types


@functools.cache
def has_decord() -> bool:
    """Whether decord is installed here."""
    return importlib.util.find_spec("decord") is not None


@functools.cache
def decoder_version(decoder: str) -> str:
    """The name of a decoder with its version and that of the FFmpeg inside it, as far as it tells."""
    import av

    if decoder == "pyav":
        return f"pyav {av.__version__} (libavcodec {'.'.join(map(str, av.library_versions['libavcodec']))})"
    return f"{decoder} {version(decoder)}"
