"""Frames of a video file: decord where it may be trusted, PyAV everywhere else.

A ``Video`` opens its file once, looks at the packets (``probe``), and then reads only what was asked for. PyAV works by
a plan: wanted frames are grouped by the key frame before them, each group is one seek, pictures that nothing depends on
are passed over undecoded, and every wanted frame must come out. Where a file does not seek as its packets promise, it
is read in order from its beginning instead. What was asked for is what comes out, or a ``DecodeError``.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from PIL import Image

from videoclip.errors import DecodeError
from videoclip.video.native_log import ffmpeg_complaints
from videoclip.video.picture import orientation_of, pixels_of, sane, shown_size
from videoclip.video.probe import Array, Decoder, VideoInfo, has_decord, look, open_container, packets_of
from videoclip.video.sampling import nearest

CHUNK_BYTES = 16 << 20  # of full-size pictures held at once
UNREFERENCED = {"h264", "hevc"}  # codecs whose decoders pass over unreferenced pictures without changing any other


@dataclass(frozen=True)
class Frames:
    """Decoded frames.

    Attributes:
        pixels: (T, H, W, 3) uint8 upright RGB on the grid of pixels that the file stores. Where frames of different
            shapes were read at once (``read_frames``), an array (T,) of pictures (H, W, 3) in square pixels.
        seconds: (T,) true times.
        decoder: who decoded.
        aspect: width over height of each pixel.
    """

    pixels: Array
    seconds: Array
    decoder: str
    aspect: float = 1.0

    def square(self) -> list[Array]:
        """Return the pictures as they are shown: T of (H, W, 3) in square pixels."""
        if self.aspect == 1:
            return list(self.pixels)
        height, width = shown_size(self.pixels.shape[1], self.pixels.shape[2], self.aspect)
        return [np.array(Image.fromarray(picture).resize((width, height))) for picture in self.pixels]


class Video:
    """An open video file.

    Args:
        path: the file.
        decoder: ``auto`` chooses; ``pyav`` or ``decord`` insists.
        info: what an earlier look at the same file told, to save another one.

    Attributes:
        info: what its packets tell; after ``scan``, what comes out of it.

    Raises:
        DecodeError: the file is missing, empty, no video, or decord was asked for where it is wrong.
    """

    def __init__(self, path: str | Path, decoder: Decoder = "auto", info: VideoInfo | None = None) -> None:
        self._path = Path(path)
        self._open()
        self._errors: set[int | None] = set()
        self._lost, self._damaged = 0, False
        try:
            self.info = info or look(self._container, self._stream, self._path, decoder)
        except BaseException:
            self.close()
            raise

    @property
    def errors(self) -> int:
        """Pictures that turned out damaged, or could not be decoded at all, among those that were read so far."""
        return len(self._errors)

    def close(self) -> None:
        """Close the file."""
        self._container.close()

    def __enter__(self) -> Video:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def iterate(self, indices: Sequence[int] | Array, chunk_bytes: int = CHUNK_BYTES) -> Iterator[Frames]:
        """The frames at ``indices`` (T,) of ``info.times``, ascending, a few at a time so that memory stays small.

        Raises:
            DecodeError: a frame cannot be decoded. Nothing is ever put in its place.
        """
        wanted = np.asarray(indices, int)
        if not len(wanted):
            raise DecodeError("decode", f"{self._path}: no frame was asked for.")
        done = 0
        if self.info.decoder == "decord":
            for frames in _read_with_decord(self.info, wanted, chunk_bytes):
                yield frames
                done += len(frames.pixels)
        # What decord could not read, or read with a complaint, PyAV reads: it counts damage and reads around it.
        held: list[tuple[Array, float]] = []
        for picture, aspect in self._pictures(wanted[done:]):
            alike = held and held[0][0].shape == picture.shape and held[0][1] == aspect
            if held and (not alike or (len(held) + 1) * picture.nbytes > chunk_bytes):
                yield self._frames(held, wanted[done:])
                done, held = done + len(held), []
            held.append((picture, aspect))
        if held:
            yield self._frames(held, wanted[done:])

    def _frames(self, held: list[tuple[Array, float]], wanted: Array) -> Frames:
        pictures, aspects = zip(*held, strict=True)
        return Frames(np.stack(pictures), self.info.times[wanted[: len(held)]], "pyav", aspects[0])

    def scan(self) -> None:
        """Decode the whole file to learn which frames really come out of it; it is then read in order, with PyAV.

        Raises:
            DecodeError: nothing can be decoded.
        """
        self._rewind()
        base, clock = float(self._stream.time_base), self.info.times
        times, keys = array("d"), array("q")
        for place, frame in enumerate(self._decoded()):
            own = None if self.info.by_order else frame.pts
            times.append(float(own * base) if own is not None else clock[min(place + self._lost, len(clock) - 1)])
            if frame.key_frame:
                keys.append(place)
        if not times:
            raise DecodeError("decode", f"{self._path}: none of its frames can be decoded.")
        order, ascending = np.arange(len(times)), np.maximum.accumulate(np.array(times))
        self.info = replace(
            self.info,
            times=ascending,
            pts=order,
            entries=order[:0],
            keys=np.array(keys, int) if keys else order[:1],
            decoder="pyav",
            by_order=True,
        )

    def _pictures(self, wanted: Array) -> Iterator[tuple[Array, float]]:
        """The picture (H, W, 3) of each wanted frame and the aspect of its pixels, in order."""
        remaining = list(wanted)
        if remaining and len(self.info.entries):
            for pts, frame in self._planned(wanted):
                if pts != self.info.pts[remaining[0]] or self._errors:
                    break  # it does not seek as its packets promise, or how damage looks depends on what came before
                yield self._upright(frame)
                remaining.pop(0)
        if not remaining:
            return
        self._rewind()
        for place, frame in enumerate(self._decoded()):
            if self._errors and not self._damaged:
                break  # places in the order no longer tell which picture this is, and see _rewind
            if (place if self.info.by_order else frame.pts) == self.info.pts[remaining[0]]:
                yield self._upright(frame)
                remaining.pop(0)
                if not remaining:
                    return
        missing = ", ".join(f"{self.info.times[i]:.2f}" for i in remaining[:5])
        raise DecodeError("decode", f"{self._path}: the frame(s) at {missing} s cannot be decoded; it is damaged.")

    def _planned(self, wanted: Array) -> Iterator[tuple[int, Any]]:
        """Wanted frames and their pts, one seek for all that follow the same key frame."""
        pts = self.info.pts[wanted]
        groups = np.searchsorted(self.info.entries, pts, side="right") - 1
        context = self._stream.codec_context
        for group in np.unique(groups):
            members = set(pts[groups == group].tolist())
            unsent = set(members)
            if not self._seek(int(self.info.entries[max(0, group)])):
                break
            for packet in packets_of(self._container, self._stream):
                needed = packet.pts in members or context.name not in UNREFERENCED
                context.skip_frame = "DEFAULT" if needed else "NONREF"
                frames = self._decode(packet)
                unsent.discard(packet.pts)
                if not unsent and packet.size:
                    frames += self._decode(None)  # held back for reordering; the next seek makes the decoder ready
                yield from ((frame.pts, frame) for frame in frames if frame.pts in members)
                if not unsent:
                    break
        context.skip_frame = "DEFAULT"

    def _decoded(self) -> Iterator[Any]:
        """Frames as they come out, in presentation order; packets that cannot be decoded are noted and passed over."""
        for packet in packets_of(self._container, self._stream):
            yield from self._decode(packet)

    def _decode(self, packet: Any | None) -> list[Any]:
        """The frames that a packet completes; with None, those that the decoder holds back."""
        import av

        if packet is not None and not packet.size and packet.dts is not None:
            return []  # it repeats the picture before it; for the decoder no bytes would mean the end
        context = self._stream.codec_context
        try:
            frames: list[Any] = context.decode(packet)
        except av.error.FFmpegError:
            self._errors.add(packet and packet.pts)
            self._lost += 1
            return []
        self._errors.update(frame.pts for frame in frames if frame.is_corrupt)
        if self._aspect_may_change and packet is not None and context.sample_aspect_ratio != self._first_aspect:
            self._aspects[packet.pts] = context.sample_aspect_ratio
        return frames

    def _upright(self, frame: Any) -> tuple[Array, float]:
        """The RGB picture (H, W, 3) of a frame, turned upright, and the aspect of its pixels."""
        orientation = orientation_of(frame)
        aspect = sane(self._aspects[frame.pts]) if frame.pts in self._aspects else self.info.aspect
        picture = np.ascontiguousarray(orientation.apply(pixels_of(frame)))
        return picture, float(1 / aspect if orientation.transposed else aspect)

    def _seek(self, pts: int) -> bool:
        import av

        try:
            self._container.seek(pts, stream=self._stream)
        except av.error.FFmpegError:
            return False
        return True

    def _open(self) -> None:
        self._container, self._stream = open_container(self._path)
        self._first_aspect: Fraction | None = self._stream.codec_context.sample_aspect_ratio
        # As for FFmpeg, the container's word on the shape of pixels comes first; where it gives none, the codec's may
        # change from picture to picture (broadcasts switch between 4:3 and 16:9).
        self._aspect_may_change = self._stream.sample_aspect_ratio == self._first_aspect
        self._aspects: dict[int | None, Fraction | None] = {}  # by pts, where the codec's word is not the first one

    def _rewind(self) -> None:
        """Back to the beginning, by opening the file again: not every container can seek there."""
        self._container.close()
        self._open()
        self._lost, self._damaged = 0, bool(self._errors)
        if self._damaged:  # as PyAV reads by default; with one thread FFmpeg would paint over what was lost
            self._stream.thread_type, self._stream.codec_context.thread_count = "SLICE", 2


def probe(path: str | Path, decoder: Decoder = "auto") -> VideoInfo:
    """Look at a file's packets, without decoding pictures.

    Raises:
        DecodeError: as ``Video``.
    """
    with Video(path, decoder) as video:
        return video.info


def read_frames(
    path: str | Path,
    *,
    seconds: Sequence[float] | Array | None = None,
    indices: Sequence[int] | Array | None = None,
    start: float | None = None,
    end: float | None = None,
    decoder: Decoder = "auto",
) -> Frames:
    """Decode the frames nearest to ``seconds``, or at ``indices`` of the stretch, in that order; all if neither.

    Args:
        seconds: wanted presentation times within the file.
        indices: positions among the frames from ``start`` to ``end``.
        start, end: the stretch, in seconds.

    Raises:
        DecodeError: as ``Video`` and ``Video.iterate``; an index lies outside the stretch.
    """
    with Video(path, decoder) as video:
        inside = video.info.stretch(start, end)
        if seconds is not None:
            wanted = nearest(video.info.times[inside], seconds)
        else:
            wanted = np.arange(len(inside)) if indices is None else np.asarray(indices, int)
        if len(wanted) and not 0 <= wanted.min() <= wanted.max() < len(inside):
            raise DecodeError("decode", f"{path}: frame {wanted.max()} was asked for; the stretch has {len(inside)}.")
        distinct, back = np.unique(inside[wanted], return_inverse=True)
        chunks = list(video.iterate(distinct))
        aspect = chunks[0].aspect
        if len({(chunk.pixels.shape[1:], chunk.aspect) for chunk in chunks}) == 1:
            pixels = np.concatenate([chunk.pixels for chunk in chunks])
        else:
            pixels, aspect = np.empty(len(distinct), object), 1.0
            pixels[:] = [picture for chunk in chunks for picture in chunk.square()]
        return Frames(pixels[back], video.info.times[inside[wanted]], chunks[-1].decoder, aspect)


def _read_with_decord(info: VideoInfo, wanted: Array, chunk_bytes: int) -> Iterator[Frames]:
    """Frames until decord fails or complains, which may be at once."""
    aspect = float(1 / info.aspect if info.orientation.transposed else info.aspect)
    chunk = max(1, chunk_bytes // (info.size[0] * info.size[1] * 3))
    with ffmpeg_complaints() as complaints:
        try:
            reader = _decord_reader(info)
            for part in np.split(wanted, range(chunk, len(wanted), chunk)):
                pixels = reader.get_batch(part).asnumpy()
                if complaints():
                    return
                yield Frames(pixels, info.times[part], "decord", aspect)
        except _decord_errors():
            return


def _decord_reader(info: VideoInfo) -> Any:
    import decord

    reader = decord.VideoReader(str(info.path.absolute()), num_threads=1)
    if len(reader) != len(info.times):
        raise RuntimeError("decord counts other frames than the packets")
    return reader


def _decord_errors() -> tuple[type[Exception], ...]:
    if not has_decord():
        return (RuntimeError,)
    from decord import DECORDError

    return (RuntimeError, DECORDError, IndexError)
