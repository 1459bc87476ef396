"""Packets without a picture, files without a known codec, names like addresses, and ends that are missing."""

from __future__ import annotations

import shutil
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image

from tests.helpers.numbered import numbered, numbers_of
from videoclip.backbone.openclip import OpenClip
from videoclip.data.manifest import Clip
from videoclip.errors import DecodeError
from videoclip.store import FeatureStore
from videoclip.store.extract import cache_features
from videoclip.video.clip import FrameChoice
from videoclip.video.decode import Video, probe, read_frames
from videoclip.video.encode import write_video
from videoclip.video.probe import Decoder


def write_repeats(path: Path) -> Path:
    """Ten pictures at 10 a second, each followed by a packet of no bytes that repeats it, as in Theora files."""
    whole = path.with_suffix(".mp4")
    write_video(whole, numbered(10), 10, "mpeg4", {"g": "5", "q": "2"})
    with av.open(str(whole)) as source, av.open(str(path), "w") as target:
        stream = source.streams.video[0]
        copy = target.add_stream_from_template(stream)
        for number, packet in enumerate(p for p in source.demux(stream) if p.size):
            for repeat, content in enumerate((bytes(packet), 0)):
                moved = av.Packet(content)
                moved.stream, moved.time_base = copy, Fraction(1, 20)
                moved.pts = moved.dts = 2 * number + repeat
                moved.duration = 1
                moved.is_keyframe = packet.is_keyframe and not repeat
                target.mux(moved)
    return path


def write_gif(path: Path, tail: bytes = b"") -> Path:
    """Five pictures, and blocks after the last one."""
    pictures = [Image.fromarray(picture) for picture in numbered(5)]
    pictures[0].save(path, save_all=True, append_images=pictures[1:], duration=300)
    content = path.read_bytes()
    assert content.endswith(b";")
    path.write_bytes(content[:-1] + tail + b";")
    return path


COMMENT = b"!\xfe\x05hello\x00"
APPLICATION = b"!\xff\x0bVIDEOCLIP10\x03abc\x00"


def check(path: Path, count: int, tiny: OpenClip) -> None:
    """Every picture is there, once; the clip is neither damaged nor short."""
    with Video(path) as video:
        assert len(video.info.times) == count and not video.info.short
        found = np.concatenate([frames.pixels for frames in video.iterate(range(count))])
        assert video.errors == 0 and numbers_of(found) == list(range(count))
        video.scan()
        assert len(video.info.times) == count
    cache_features([Clip(id="a", path=path)], path.with_suffix(".store"), tiny, FrameChoice(frames=4), workers=0)
    store = FeatureStore(path.with_suffix(".store"))
    assert store["a"].notes["status"] == "ok" and len(store["a"].seconds) == 4


def test_a_packet_of_no_bytes_repeats_a_picture(tmp_path: Path, tiny: OpenClip) -> None:
    path = write_repeats(tmp_path / "v.nut")
    check(path, 10, tiny)
    assert probe(path).span == pytest.approx(1.0, abs=0.051)


@pytest.mark.parametrize("tail", [b"", COMMENT, APPLICATION, APPLICATION + COMMENT], ids=len)
def test_what_follows_the_last_picture_of_a_gif_is_none(tmp_path: Path, tail: bytes, tiny: OpenClip) -> None:
    check(write_gif(tmp_path / "v.gif", tail), 5, tiny)


def test_an_unknown_codec_is_named(tmp_path: Path, tiny: OpenClip) -> None:
    path = tmp_path / "v.mp4"
    write_video(path, numbered(4), 10)
    path.write_bytes(path.read_bytes().replace(b"avc1", b"zz99"))
    with pytest.raises(DecodeError, match=r"v\.mp4: its video codec is not known"):
        probe(path)
    cache_features([Clip(id="a", path=path)], tmp_path / "s", tiny, FrameChoice(frames=4), workers=0)
    assert [failure.stage for failure in FeatureStore(tmp_path / "s").failures] == ["probe"]


NAMES = [
    "cam1:0001.mp4",
    "http:clip.mp4",
    "concat:a|b.mp4",
    "file:a.mp4",
    "pipe:0.mp4",
    "-i.mp4",
    "100%.mp4",
    "clip%03d.mp4",
    "subfile,,start,0,end,9,,:a.mp4",
    "a\\b?c#d.mp4",
    "~.mp4",
    "\u00e9t\u00e9 \U0001f3a5.mp4",
    "@list.mp4",
]


@pytest.fixture(scope="module")
def ordinary(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("ordinary") / "v.mp4"
    write_video(path, numbered(8), 10)
    return path


@pytest.mark.parametrize("decoder", ["auto", "pyav"])
@pytest.mark.parametrize("name", NAMES)
def test_every_name_is_a_file(
    ordinary: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, decoder: Decoder
) -> None:
    shutil.copy(ordinary, tmp_path / name)
    monkeypatch.chdir(tmp_path)
    assert numbers_of(read_frames(name, decoder=decoder).pixels) == list(range(8))
    assert probe(name).decoder == probe(ordinary).decoder


def test_a_percent_sign_names_one_picture_file(tmp_path: Path) -> None:
    write_gif(tmp_path / "loop%d.gif")
    Image.fromarray(numbered(1)[0]).save(tmp_path / "loop1.gif")
    assert len(read_frames(tmp_path / "loop%d.gif").pixels) == 5


@pytest.mark.parametrize("start", [0, 600])
@pytest.mark.parametrize("name", ["v.mkv", "v.flv"])
def test_a_late_start_hides_no_missing_end(tmp_path: Path, name: str, start: int) -> None:
    path = tmp_path / name
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("libx264", 10, options={"g": "5"})
        stream.height, stream.width, stream.pix_fmt = 64, 96, "yuv420p"
        for number, picture in enumerate(numbered(100)):
            frame = av.VideoFrame.from_ndarray(picture, "rgb24")
            frame.pts, frame.time_base = number + 10 * start, Fraction(1, 10)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    whole = probe(path)
    assert not whole.short and whole.span == pytest.approx(10, abs=0.3)
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 6 // 10])
    assert probe(path).short


@pytest.mark.parametrize("start", [0, 600])
def test_a_transport_stream_without_its_last_pictures_is_short(tmp_path: Path, start: int) -> None:
    """The sound goes on; FFmpeg takes its end for that of the pictures when it finds none near the file's end."""
    path, rate = tmp_path / "v.ts", 48000
    with av.open(str(path), "w") as container:
        video: Any = container.add_stream("libx264", 10)
        video.height, video.width, video.pix_fmt = 64, 96, "yuv420p"
        sound: Any = container.add_stream("mp2", rate, layout="mono")
        for number, picture in enumerate(numbered(60)):
            frame = av.VideoFrame.from_ndarray(picture, "rgb24")
            frame.pts, frame.time_base = number + 10 * start, Fraction(1, 10)
            container.mux(video.encode(frame))
        container.mux(video.encode(None))
        noise = np.random.default_rng(0).integers(-9999, 9999, (1, 1152), np.int16)
        for number in range(100 * rate // 1152):
            part = av.AudioFrame.from_ndarray(noise, "s16", "mono")
            part.sample_rate, part.pts, part.time_base = rate, number * 1152 + start * rate, Fraction(1, rate)
            container.mux(sound.encode(part))
        container.mux(sound.encode(None))
    info = probe(path)
    assert info.short and info.span == pytest.approx(6, abs=0.3)
