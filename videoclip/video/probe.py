"""A look at a video file's packets, without decoding: which frames it holds, when they are shown, who may decode it.

decord 0.6.0 is exact on ordinary files, but wrong without a word on open GOPs, edit lists, AVI, transport streams,
files that start before zero, display matrices that mirror and pictures that change their size (it squashes them into
the first size), it has no AV1, and 10-bit video differs between decoders; all of those go to PyAV. So do codecs whose
changes of size cannot be seen in parameter sets: decord is no faster on any of them.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.util
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import numpy as np

from videoclip.errors import DecodeError
from videoclip.video.picture import Orientation, orientation_of, sane, shown_size

Array = np.ndarray
Decoder = Literal["auto", "decord", "pyav"]

INDEXED_CONTAINERS = {"mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm", "flv"}  # others are read from their beginning
FROM_ZERO = {"matroska,webm", "flv"}  # containers whose duration may count from 0, not from the first frame
DECORD_CODECS = {"h264", "hevc"}
EIGHT_BIT = {"yuv420p", "yuvj420p", "yuv422p", "yuvj422p", "yuv444p", "yuvj444p"}
IDR = 5  # the NAL unit type of a picture after which nothing refers to anything before it
SPS = {"h264": 7, "hevc": 33}  # the NAL unit types of parameters such as the size
FIRST_PICTURE_PACKETS = 8  # that are tried until one gives a picture
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
        duration: seconds that the file claims from its first picture on, None if it claims nothing. Of a transport
            stream FFmpeg guesses them from what is there.
        span: seconds from the first frame to the end of the last one.
        size: height and width of the first picture as it is stored.
        aspect: width over height of a stored pixel.
        orientation: the way to turn the first picture upright.
        interlaced: whether the first picture holds two fields, shot one after the other.
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
    size: tuple[int, int]
    aspect: Fraction
    orientation: Orientation
    interlaced: bool

    @property
    def shown_size(self) -> tuple[int, int]:
        """Height and width of the first picture on a screen: upright, in square pixels."""
        height, width = shown_size(*self.size, float(self.aspect))
        return (width, height) if self.orientation.transposed else (height, width)

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
        container = av.open(_source(path), metadata_errors="replace")
    except FileNotFoundError as error:
        raise DecodeError("open", f"{path}: there is no such file.") from error
    except (av.error.FFmpegError, OSError) as error:
        raise DecodeError("open", f"{path}: cannot be opened as a video ({error.strerror or error}).") from error
    stream = container.streams.best("video")
    if stream is None:
        held = ", ".join(sorted({s.type for s in container.streams})) or "nothing readable"
        container.close()
        raise DecodeError("probe", f"{path}: holds no video stream, only {held}.")
    if stream.codec_context is None:
        container.close()
        raise DecodeError("probe", f"{path}: its video codec is not known to FFmpeg. Convert it to another codec.")
    stream.thread_type = "NONE"  # many files are read at once by many processes, one thread each
    return container, stream


def _source(path: Path) -> Any:
    """Return what FFmpeg takes for this one file, whatever its name.

    An absolute name never begins like an address ("cam1:0001.mp4") or an option. A percent sign might make FFmpeg look
    for numbered pictures ("loop%d.gif"), which an open file never does.
    """
    return path.open("rb") if "%" in str(path.absolute()) else str(path.absolute())


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
    orientation = Orientation() if packets.picture is None else orientation_of(packets.picture)
    reason = _why_not_decord(container, stream, packets, by_order, orientation)
    if decoder == "decord" and reason:
        raise DecodeError("probe", f"{path}: decord would read wrong frames ({reason}); use decoder auto or pyav.")
    seekable = container.format.name in INDEXED_CONTAINERS and not by_order
    # Started in the middle of an H.264 stream with open GOPs, the decoder hands out wrong pictures under right times.
    seekable = seekable and not (stream.codec_context.name == "h264" and packets.open_gop)
    key_pts = np.unique(packets.pts[packets.shown & packets.key])
    end = times[-1] + (packets.last_duration * base or (times[-1] - times[0]) / max(1, len(times) - 1))
    context, picture = stream.codec_context, packets.picture
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
        duration=_from_first(_claimed(container, stream), times[0], container),
        span=float(end - times[0]),
        size=(context.height, context.width) if picture is None else (picture.height, picture.width),
        aspect=sane(stream.sample_aspect_ratio),
        orientation=orientation,
        interlaced=picture is not None and picture.interlaced_frame,
    )


class _Packets:
    """The packets of a video stream in the order of decoding, without their content: arrays (N,).

    Attributes:
        picture: the first picture, decoded; None where the first packets give none.
        new_sizes: whether parameter sets follow that are not in the stream's header, so that sizes may change.
    """

    def __init__(self, container: Any, stream: Any) -> None:
        pts, dts, key, shown, told = array("q"), array("q"), array("b"), array("b"), array("b")
        self.open_gop, self.last_duration, self.picture = False, 0, None
        codec, extra = stream.codec_context.name, bytes(stream.codec_context.extradata or b"")
        self.new_sizes = codec == "h264" and extra[:1] == b"\x01" and extra[5] & 31 > 1
        after, last = None, None
        for packet in packets_of(container, stream):
            time = next((t for t in (packet.pts, packet.dts) if t is not None), len(pts))
            if not _holds_picture(packet, codec):
                if last is not None and not packet.size and packet.dts is not None:  # it repeats the one before
                    self.last_duration = max(self.last_duration, time - last + (packet.duration or 0))
                continue
            told.append(packet.pts is not None)
            if self.picture is None and len(pts) < FIRST_PICTURE_PACKETS:
                self.picture = _first_picture(packet, stream.codec_context)
            units = _nal_units(bytes(packet), extra, codec) if packet.is_keyframe and codec in SPS else []
            self.new_sizes |= packet.has_sidedata("new_extradata")
            self.new_sizes |= any(kind == SPS[codec] and unit not in extra for kind, unit in units)
            # No clean start: a frame shown before the key frame follows it, or H.264 does not call it IDR.
            if packet.is_keyframe:
                after = time
                self.open_gop |= codec == "h264" and IDR not in (kind for kind, _ in units)
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


def _holds_picture(packet: Any, codec: str) -> bool:
    """Whether a packet is more than a repetition (Theora, AVI) or than what follows the last picture (GIF)."""
    if codec != "gif" or not packet.size:
        return bool(packet.size)
    data, at = bytes(packet), 0
    if data.startswith(b"GIF8"):
        at = 13 + (3 * (2 << (data[10] & 7)) if data[10] & 128 else 0)  # the header and its colors
    while data[at : at + 1] == b"!":  # an extension: its kind, then blocks up to one of no bytes
        at += 2
        while at < len(data) and data[at]:
            at += data[at] + 1
        at += 1
    return data[at : at + 1] not in (b"", b";")


def _first_picture(packet: Any, context: Any) -> Any | None:
    """Decode one packet at once, without waiting for those that might be shown before it."""
    import av

    try:
        frames = [*context.decode(packet), *context.decode(None)]
    except av.error.FFmpegError:
        frames = []
    context.flush_buffers()
    return frames[0] if frames else None


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


def _from_first(claimed: float | None, first: float, container: Any) -> float | None:
    """Return a claimed duration counted from the first frame, so that a late start hides no missing end."""
    from_zero = container.format.name in FROM_ZERO and claimed is not None and claimed > first > 0
    return claimed - first if claimed is not None and from_zero else claimed


def _why_not_decord(container: Any, stream: Any, packets: _Packets, by_order: bool, orientation: Orientation) -> str:
    context = stream.codec_context
    turned = orientation != Orientation()  # decord knows the angle that MP4 gives, and nothing else
    checks = (
        (not has_decord(), "decord is not installed"),
        (container.format.name not in INDEXED_CONTAINERS, f"container {container.format.name}"),
        (not _is_utf8(container.name), "a file name that is not UTF-8"),
        (by_order, "no presentation times"),
        (context.name not in DECORD_CODECS, f"codec {context.name}"),
        (context.pix_fmt not in EIGHT_BIT, f"pixel format {context.pix_fmt}"),
        (len(container.streams.video) > 1, "several video streams"),
        (not packets.shown.all(), "an edit list hides frames"),
        (packets.pts.min() < 0, "starts before time zero"),
        (packets.share_times, "frames that share a time"),
        (packets.open_gop, "open GOP"),
        (packets.new_sizes, "the picture size may change"),
        (orientation.mirrors or (turned and not container.format.name.startswith("mov")), "display matrix"),
    )
    return next((reason for applies, reason in checks if applies), "")


def _nal_units(packet: bytes, extra: bytes, codec: str) -> list[tuple[int, bytes]]:
    """NAL units of a packet with their types: after start codes, or after lengths if the stream's header says so."""
    if extra.startswith(b"\x01"):
        size, at, units = (extra[4 if codec == "h264" else 21] & 3) + 1, 0, []
        while at + size < len(packet):
            begin, at = at + size, at + size + int.from_bytes(packet[at : at + size], "big")
            units.append(packet[begin:at])
    else:
        units = [part.rstrip(b"\0") for part in packet.split(b"\x00\x00\x01")[1:]]
    return [(unit[0] & 31 if codec == "h264" else unit[0] >> 1 & 63, unit) for unit in units if unit]


def _is_utf8(name: str) -> bool:
    """Whether a file name is UTF-8, the only kind that decord opens."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


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
