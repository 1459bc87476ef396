"""Frames of a video file: decord where it may be trusted, PyAV everywhere else. The only file that imports a decoder.

``probe`` demuxes a file once with PyAV, without decoding: presentation times, key frames, container. From that it
decides who decodes. decord 0.6.0 is exact on ordinary files, but wrong without a word on open GOPs, edit lists, AVI,
transport streams and files that start before zero, and 10-bit video differs between decoders; all of those go to PyAV.
What was asked for is what comes out, or a ``DecodeError``.
"""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from videoclip.errors import DecodeError
from videoclip.video.sampling import nearest

Array = np.ndarray
Decoder = Literal["auto", "decord", "pyav"]

INDEXED_CONTAINERS = {"mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm", "flv"}  # others are read from their beginning
DECORD_CODECS = {"h264", "hevc", "vp8", "vp9", "mpeg4", "mpeg2video", "msmpeg4v3", "h263", "mjpeg", "flv1"}
IDR = 5  # the NAL unit type of a picture after which nothing refers to anything before it
EIGHT_BIT = {"yuv420p", "yuvj420p", "yuv422p", "yuvj422p", "yuv444p", "yuvj444p"}


@dataclass(frozen=True)
class VideoInfo:
    """What a look at a file's packets tells, and who will decode it.

    Attributes:
        times: (N,) presentation time of each frame in seconds, ascending.
        pts: (N,) the same in the stream's time base; the frames' order where the file gives no times.
        keys: (K,) pts of the key frames at which decoding may start.
        decoder: ``decord`` or ``pyav``.
        reason: why decord may not read it, empty if it may.
        timed: False where the file holds no presentation times: ``times`` then come from decoding it once.
        duration: seconds that the container claims, None if it claims nothing.
        damaged: packets that could not be decoded, known only after ``scan``.
    """

    path: Path
    times: Array
    pts: Array
    keys: Array
    decoder: str
    reason: str
    codec: str
    container: str
    timed: bool = True
    duration: float | None = None
    damaged: int = 0

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


@dataclass(frozen=True)
class Frames:
    """Decoded frames: pixels (T, H, W, 3) uint8 upright RGB, their true times (T,) in seconds, and who decoded."""

    pixels: Array
    seconds: Array
    decoder: str


def probe(path: str | Path, decoder: Decoder = "auto") -> VideoInfo:
    """Look at a file's packets, without decoding pictures.

    Args:
        path: the file.
        decoder: ``auto`` chooses; ``pyav`` or ``decord`` insists.

    Raises:
        DecodeError: the file is missing, empty, no video, or decord was asked for where it is wrong.
    """
    path = Path(path)
    with _open(path) as container:
        stream = _video_stream(container, path)
        packets = [p for p in container.demux(stream) if p.size]
        shown = [p for p in packets if not p.is_discard]
        if not shown:
            raise DecodeError("probe", f"{path}: the video stream holds no frame.")
        base = float(stream.time_base)
        # AVI numbers pictures as they are stored: with B-frames its packets' times belong to other pictures.
        timed = container.format.name != "avi" and all(p.pts is not None for p in packets)
        pts = np.unique([p.pts for p in shown]) if timed else np.zeros(0, np.int64)
        reason = _why_not_decord(container, stream, packets) if timed else "no presentation times"
        info = VideoInfo(
            path=path,
            times=pts * base,
            pts=pts,
            keys=_entry_points(container, stream, packets) if timed else pts,
            decoder="pyav" if reason or decoder == "pyav" else "decord",
            reason=reason,
            codec=stream.codec_context.name,
            container=container.format.name,
            timed=timed,
            duration=container.duration / 1_000_000 if container.duration else None,
        )
    if decoder == "decord" and reason:
        raise DecodeError("probe", f"{path}: decord would read wrong frames ({reason}); use decoder auto or pyav.")
    return info if timed else scan(info)


def scan(info: VideoInfo) -> VideoInfo:
    """Decode a whole file to learn which frames really come out of it; the result reads in order, with PyAV.

    For files that hold no presentation times, and for damaged ones.

    Raises:
        DecodeError: nothing can be decoded.
    """
    with _open(info.path) as container:
        stream = _video_stream(container, info.path)
        errors: list[str] = []
        rate = float(stream.average_rate or 25)
        times = [
            float(frame.pts * stream.time_base) if frame.pts is not None else order / rate
            for order, frame in enumerate(_decoded(container, stream, errors))
        ]
    if not times:
        raise DecodeError(
            "decode",
            f"{info.path}: none of its frames can be decoded ({errors[0] if errors else 'no data'}).",
        )
    order = np.arange(len(times))
    return replace(
        info,
        times=np.maximum.accumulate(times),
        pts=order,
        keys=order[:1],
        decoder="pyav",
        timed=False,
        damaged=len(errors),
    )


def read(info: VideoInfo, indices: Sequence[int] | Array) -> Frames:
    """Decode the frames at ``indices`` (T,) of ``info.times``, in that order; repeats are allowed.

    Raises:
        DecodeError: a frame cannot be decoded. Nothing is ever put in its place.
    """
    chunks = list(iterate(info, indices))
    return Frames(
        np.concatenate([chunk.pixels for chunk in chunks]),
        np.concatenate([chunk.seconds for chunk in chunks]),
        chunks[0].decoder,
    )


def read_frames(
    path: str | Path,
    *,
    seconds: Sequence[float] | Array | None = None,
    indices: Sequence[int] | Array | None = None,
    start: float | None = None,
    end: float | None = None,
    decoder: Decoder = "auto",
) -> Frames:
    """Probe a file and decode the frames nearest to ``seconds``, or at ``indices`` of the stretch; all if neither.

    Args:
        seconds: wanted presentation times within the file.
        indices: positions among the frames from ``start`` to ``end``.
        start, end: the stretch, in seconds.

    Raises:
        DecodeError: as ``probe`` and ``read``; an index lies outside the stretch.
    """
    info = probe(path, decoder)
    inside = info.stretch(start, end)
    if seconds is not None:
        return read(info, inside[nearest(info.times[inside], seconds)])
    wanted = np.arange(len(inside)) if indices is None else np.asarray(indices, int)
    if len(wanted) and not 0 <= wanted.min() <= wanted.max() < len(inside):
        raise DecodeError("decode", f"{path}: frame {wanted.max()} was asked for, but the stretch has {len(inside)}.")
    return read(info, inside[wanted])


def iterate(info: VideoInfo, indices: Sequence[int] | Array, chunk: int = 8) -> Iterator[Frames]:
    """As ``read``, but at most ``chunk`` frames at a time when the indices ascend, so that memory stays small.

    Raises:
        DecodeError: a frame cannot be decoded.
    """
    wanted = np.asarray(indices, int)
    if not len(wanted):
        raise DecodeError("decode", f"{info.path}: no frame was asked for.")
    done = 0
    if info.decoder == "decord":
        try:
            reader = _decord_reader(info)
            for part in np.split(wanted, range(chunk, len(wanted), chunk)):
                yield Frames(reader.get_batch(part).asnumpy(), info.times[part], "decord")
                done += len(part)
            return
        except _decord_errors():
            pass  # decord stumbles over damage that PyAV can read around; what PyAV cannot read raises below
    yield from _pyav_chunks(info, wanted[done:], chunk)


def _pyav_chunks(info: VideoInfo, wanted: Array, chunk: int) -> Iterator[Frames]:
    distinct = np.unique(wanted)
    if np.array_equal(distinct, wanted):
        pixels: list[Array] = []
        for position, (index, picture) in enumerate(_pyav_pictures(info, distinct)):
            pixels.append(picture)
            if len(pixels) == chunk or position == len(wanted) - 1:
                part = wanted[position + 1 - len(pixels) : position + 1]
                assert index == part[-1]
                yield Frames(np.stack(pixels), info.times[part], "pyav")
                pixels = []
        return
    pictures = dict(_pyav_pictures(info, distinct))
    yield Frames(np.stack([pictures[i] for i in wanted]), info.times[wanted], "pyav")


def _pyav_pictures(info: VideoInfo, distinct: Array) -> Iterator[tuple[int, Array]]:
    """Index and picture of each wanted frame, ascending."""
    remaining = list(distinct)
    if info.timed:
        with _open(info.path) as container:
            for index, frame in _planned(container, _video_stream(container, info.path), info, distinct):
                if index != remaining[0]:
                    break  # the file does not seek as its packets promise: read it from its beginning instead
                yield index, _upright(frame)
                remaining.pop(0)
    if not remaining:
        return
    with _open(info.path) as container:
        stream = _video_stream(container, info.path)
        errors: list[str] = []
        for order, frame in enumerate(_decoded(container, stream, errors)):
            if (frame.pts if info.timed else order) == info.pts[remaining[0]]:
                yield int(remaining.pop(0)), _upright(frame)
                if not remaining:
                    return
    missing = ", ".join(f"{info.times[i]:.2f}" for i in remaining[:5])
    detail = f" ({errors[0]})" if errors else ""
    raise DecodeError(
        "decode", f"{info.path}: the frame(s) at {missing} s cannot be decoded{detail}; the file is damaged."
    )


def _planned(container: Any, stream: Any, info: VideoInfo, distinct: Array) -> Iterator[tuple[int, Any]]:
    """Frames by seeking to the key frame before each group of wanted ones, reading nothing twice."""
    groups = np.searchsorted(info.keys, info.pts[distinct], side="right") - 1
    frames, reached = _decoded(container, stream, []), -1
    for group in np.unique(groups):
        members = {int(info.pts[i]): int(i) for i in distinct[groups == group]}
        if group > max(0, reached):
            container.seek(int(info.keys[group]), stream=stream)
            frames = _decoded(container, stream, [])
        reached = group
        last = max(members)
        for frame in frames:
            if frame.pts in members:
                yield members[frame.pts], frame
            if frame.pts is not None and frame.pts >= last:
                break


def _decoded(container: Any, stream: Any, errors: list[str]) -> Iterator[Any]:
    """Frames as they come out, in presentation order; packets that cannot be decoded are noted and passed over."""
    import av

    for packet in container.demux(stream):
        try:
            frames = packet.decode()
        except av.error.FFmpegError as error:
            errors.append(error.strerror or type(error).__name__)
            continue
        yield from frames


def _upright(frame: Any) -> Array:
    """RGB pixels (H, W, 3), turned as the file's rotation says; PyAV leaves that to us."""
    turns = round(frame.rotation / 90) % 4
    return np.ascontiguousarray(np.rot90(frame.to_ndarray(format="rgb24"), turns))


def _open(path: Path) -> Any:
    import av

    if path.is_dir():
        raise DecodeError("open", f"{path}: is a folder, not a video file.")
    try:
        if path.stat().st_size == 0:
            raise DecodeError("open", f"{path}: is empty (0 bytes).")
        return av.open(str(path), metadata_errors="replace")
    except FileNotFoundError as error:
        raise DecodeError("open", f"{path}: there is no such file.") from error
    except (av.error.FFmpegError, OSError) as error:
        raise DecodeError("open", f"{path}: cannot be opened as a video ({error.strerror or error}).") from error


def _video_stream(container: Any, path: Path) -> Any:
    stream = container.streams.best("video")
    if stream is None:
        held = ", ".join(sorted({s.type for s in container.streams})) or "nothing readable"
        raise DecodeError("probe", f"{path}: holds no video stream, only {held}.")
    stream.thread_type = "NONE"  # many files are read at once by many processes, one thread each
    return stream


def _why_not_decord(container: Any, stream: Any, packets: Sequence[Any]) -> str:
    context = stream.codec_context
    checks = (
        (not _has_decord(), "decord is not installed"),
        (container.format.name not in INDEXED_CONTAINERS, f"container {container.format.name}"),
        (context.name not in DECORD_CODECS, f"codec {context.name}"),
        (context.pix_fmt not in EIGHT_BIT, f"pixel format {context.pix_fmt}"),
        (len(container.streams.video) > 1, "several video streams"),
        (any(p.is_discard for p in packets), "an edit list hides frames"),
        (min(p.pts for p in packets) < 0, "starts before time zero"),
        (len({p.pts for p in packets}) < len(packets), "frames that share a time"),
        (not packets[0].is_keyframe or _open_gop(stream, packets), "open GOP"),
    )
    return next((reason for applies, reason in checks if applies), "")


def _entry_points(container: Any, stream: Any, packets: Sequence[Any]) -> Array:
    keys = np.sort([p.pts for p in packets if p.is_keyframe])
    if container.format.name not in INDEXED_CONTAINERS:
        return keys[:1]
    # Started in the middle of an H.264 stream with open GOPs, the decoder hands out wrong pictures under right times.
    return keys[:1] if stream.codec_context.name == "h264" and _open_gop(stream, packets) else keys


def _open_gop(stream: Any, packets: Sequence[Any]) -> bool:
    """Whether some key frame is no clean start: frames shown before it follow it, or H.264 does not call it IDR."""
    key = packets[0].pts
    extra = stream.codec_context.extradata or b""
    for packet in packets:
        if packet.is_keyframe:
            key = packet.pts
            if stream.codec_context.name == "h264" and IDR not in _h264_units(bytes(packet), extra):
                return True
        elif packet.pts < key:
            return True
    return False


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
def _has_decord() -> bool:
    return importlib.util.find_spec("decord") is not None


def _decord_reader(info: VideoInfo) -> Any:
    import decord

    reader = decord.VideoReader(str(info.path), num_threads=1)
    if len(reader) != len(info.times):
        raise RuntimeError("decord counts other frames than the packets")
    return reader


def _decord_errors() -> tuple[type[Exception], ...]:
    if not _has_decord():
        return (RuntimeError,)
    from decord import DECORDError

    return (RuntimeError, DECORDError, IndexError)
