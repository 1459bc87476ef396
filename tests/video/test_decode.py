"""Both decoders on files whose frames carry their own number: what was asked for is what comes out."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest

from tests.helpers.data import VIDEOS
from tests.helpers.numbered import long_frames, numbered, numbers_of
from tests.helpers.video_files import (
    COUNT,
    ENCODINGS,
    REMUXED,
    shift,
    write_all,
    write_edit_list,
    write_variable_rate,
)
from videoclip.errors import DecodeError
from videoclip.video import decode, sampling
from videoclip.video.clip import FrameChoice, chosen_frames
from videoclip.video.decode import Video, read_frames
from videoclip.video.encode import write_video
from videoclip.video.isolation import Ended, isolated
from videoclip.video.probe import Decoder, VideoInfo, has_decord

DECODERS: list[Decoder] = ["auto", "pyav"]
NOT_DECORD = {
    "h264_open_gop.mp4",
    "h264_in.avi",
    "h264_transport.ts",
    "h264_raw.h264",
    "h264_ten_bit.mp4",
    "hevc.mp4",  # x265 makes open GOPs unless told otherwise
    "av1.mkv",
    "vp8.webm",
    "vp9.webm",
    "mpeg4.avi",
    "mpeg4_b_frames.avi",
    "mpeg2.mpg",
    "negative_start.mkv",
}
FILES = [*ENCODINGS, *REMUXED]


@pytest.fixture(scope="module")
def encoded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("encoded")
    write_all(folder)
    return folder


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("name", FILES)
def test_every_frame_is_the_one_asked_for(encoded: Path, name: str, decoder: Decoder) -> None:
    info = decode.probe(encoded / name, decoder)
    count = 1 if name.startswith("one_frame") else COUNT
    first = REMUXED[name][1] if name in REMUXED else None
    assert len(info.times) == count and (first is None or info.times[0] == pytest.approx(first, abs=1.5e-3))
    for wanted in (range(count), range(0, count, 7), [count - 1], [count // 2, 0, count // 2]):
        frames = read_frames(encoded / name, indices=list(wanted), decoder=decoder)
        pixels = np.rot90(frames.pixels, 1 if name.startswith("rotated") else 0, axes=(1, 2))
        assert numbers_of(pixels) == list(wanted)
        assert pixels.dtype == np.uint8 and pixels.shape[1:] == (64, 96, 3)
        accuracy = 0.041 if name == "mpeg2.mpg" else 1.5e-3  # a program stream may give two frames one time
        assert np.allclose(frames.seconds - info.times[0], np.array(list(wanted)) / 25, atol=accuracy)


@pytest.mark.parametrize("name", FILES)
def test_decord_reads_only_what_it_reads_right(encoded: Path, name: str) -> None:
    info = decode.probe(encoded / name)
    assert (info.decoder == "pyav") == (name in NOT_DECORD or not has_decord()), info.reason
    assert not info.short and read_frames(encoded / name).decoder == info.decoder
    if name in NOT_DECORD:
        assert info.reason
        with pytest.raises(DecodeError, match=info.reason):
            decode.probe(encoded / name, "decord")


@pytest.mark.parametrize("decoder", DECODERS)
def test_an_edit_list_hides_frames(tmp_path: Path, decoder: Decoder) -> None:
    path = tmp_path / "cut.mp4"
    write_edit_list(path, hidden=0.7)
    frames = read_frames(path, decoder=decoder)
    first = numbers_of(frames.pixels)[0]
    assert 16 <= first <= 18 and frames.decoder == "pyav"
    assert numbers_of(frames.pixels) == list(range(first, COUNT))
    assert np.allclose(np.diff(frames.seconds), 0.04, atol=1.5e-3)


@pytest.mark.parametrize("decoder", DECODERS)
def test_variable_rate_is_sampled_by_time(tmp_path: Path, decoder: Decoder) -> None:
    times = [*np.arange(0, 2, 0.04), *np.arange(2, 6, 0.5), *np.arange(6, 7, 0.1)]
    write_variable_rate(tmp_path / "v.mp4", times)
    with Video(tmp_path / "v.mp4", decoder) as video:
        assert np.allclose(video.info.times, times, atol=1.5e-3)
        frames = list(chosen_frames(video, FrameChoice(fps=2)))
    shown = np.concatenate([f.seconds for f in frames])
    numbers = numbers_of(np.concatenate([f.pixels for f in frames]))
    assert np.allclose(shown, np.array(times)[numbers], atol=1.5e-3)
    wishes = np.arange(0, 6.9, 0.5)
    gaps = np.array([np.abs(np.array(times) - wish).min() for wish in wishes])
    assert len(shown) == len(wishes) and (np.abs(shown - wishes) <= gaps + 1.5e-3).all()
    with Video(tmp_path / "v.mp4", decoder) as video:  # more segments than frames where those are sparse
        parts = list(chosen_frames(video, FrameChoice(frames=40)))
        assert not video.info.by_order and {part.decoder for part in parts} == {video.info.decoder}
    seconds = np.concatenate([part.seconds for part in parts])
    assert 20 < len(seconds) < 40 and (np.diff(seconds) > 0).all()


@pytest.mark.parametrize("decoder", DECODERS)
def test_odd_sizes(tmp_path: Path, decoder: Decoder) -> None:
    write_video(tmp_path / "odd.mp4", numbered(30, 65, 97), 25, options={"g": "12"}, pixel_format="yuv444p")
    frames = read_frames(tmp_path / "odd.mp4", indices=[0, 13, 29], decoder=decoder)
    assert frames.pixels.shape == (3, 65, 97, 3) and numbers_of(frames.pixels) == [0, 13, 29]


@pytest.fixture(scope="module", params=[1500, pytest.param(18000, marks=pytest.mark.slow)], ids=["one", "twelve"])
def minutes(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, int]:
    """Write a file of one or twelve minutes with few key frames."""
    path, count = tmp_path_factory.mktemp("minutes") / "video.mp4", request.param
    write_video(path, long_frames(count), 25, options={"g": "250", "preset": "ultrafast", "bf": "2"})
    return path, count


@pytest.mark.parametrize("decoder", DECODERS)
def test_minutes(minutes: tuple[Path, int], decoder: Decoder) -> None:
    """Decoders that skip ahead have given up on such files and returned whatever frame they stood on."""
    path, count = minutes
    wanted = np.random.default_rng(0).choice(count, 24 if count > 10000 else 8, replace=False)
    frames = read_frames(path, indices=wanted, decoder=decoder)
    assert numbers_of(frames.pixels) == wanted.tolist()
    assert np.allclose(frames.seconds, wanted / 25, atol=1e-3)


def test_key_frames_are_what_key_sampling_takes(encoded: Path) -> None:
    with Video(encoded / "h264_b_frames.mp4") as video:
        assert video.info.keys.tolist() == [0, 12, 24, 36, 48]
        chosen = list(chosen_frames(video, FrameChoice(frames=4, sampling="key")))
        assert numbers_of(np.concatenate([f.pixels for f in chosen])) == [12, 24, 36, 48]
        with pytest.raises(DecodeError, match="no key frame between 0.52 and 0.9 s"):
            list(chosen_frames(video, FrameChoice(frames=4, sampling="key"), 0.52, 0.9))


def test_pictures_that_nothing_depends_on_stay_undecoded(encoded: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The plan's saving, counted in packets that the decoder was told to pass over."""
    passed = []
    real = Video._decode

    def counted(self: Video, packet: object) -> list[object]:
        passed.append(str(self._stream.codec_context.skip_frame))
        return real(self, packet)

    monkeypatch.setattr(Video, "_decode", counted)
    with Video(encoded / "h264_one_group.mp4", "pyav") as video:
        (frames,) = video.iterate([0, 50])
    assert numbers_of(frames.pixels) == [0, 50]
    assert sum("NONREF" in setting.upper() or "NON_REF" in setting.upper() for setting in passed) > 30


def test_by_time_and_stretch(numbered_mp4: Path) -> None:
    assert numbers_of(read_frames(numbered_mp4, seconds=[0.0, 1.0, 3.18]).pixels) == [0, 25, 80]
    inside = read_frames(numbered_mp4, indices=[0, 24], start=2.0, end=3.0)
    assert numbers_of(inside.pixels) == [50, 74] and inside.seconds.tolist() == pytest.approx([2.0, 2.96])
    assert numbers_of(read_frames(numbered_mp4, seconds=[0.0], start=2.0).pixels) == [50]
    assert len(read_frames(numbered_mp4).pixels) == 100


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"indices": [100]}, "frame 100 was asked for"),
        ({"start": 50.0}, "no frame between"),
        ({"indices": []}, "no frame was asked for"),
    ],
)
def test_impossible_wishes_are_errors(numbered_mp4: Path, arguments: dict[str, object], message: str) -> None:
    with pytest.raises(DecodeError, match=message):
        read_frames(numbered_mp4, **arguments)  # type: ignore[arg-type]


def test_chunks_join_to_the_whole(numbered_mp4: Path) -> None:
    for decoder in DECODERS:
        wanted = list(range(0, 100, 3))
        with Video(numbered_mp4, decoder) as video:
            parts = list(video.iterate(wanted, chunk_bytes=8 * 64 * 96 * 3))
        assert [len(p.pixels) for p in parts] == [8, 8, 8, 8, 2]
        assert numbers_of(np.concatenate([p.pixels for p in parts])) == wanted


def test_pyav_goes_on_where_decord_gives_up(numbered_mp4: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """decord fails after its first chunk: no frame comes twice, none is missing."""
    real_reader = decode._decord_reader

    class GivesUp:
        def __init__(self, info: VideoInfo) -> None:
            self.reader, self.calls = real_reader(info), 0

        def get_batch(self, part: np.ndarray) -> object:
            self.calls += 1
            if self.calls > 1:
                raise RuntimeError("cannot go on")
            return self.reader.get_batch(part)

    if not has_decord():
        pytest.skip("decord has no wheel here")
    monkeypatch.setattr(decode, "_decord_reader", GivesUp)
    wanted = list(range(0, 100, 5))
    with Video(numbered_mp4) as video:
        parts = list(video.iterate(wanted, chunk_bytes=8 * 64 * 96 * 3))
    assert numbers_of(np.concatenate([p.pixels for p in parts])) == wanted
    assert [p.decoder for p in parts] == ["decord", "pyav", "pyav"]
    assert np.concatenate([p.seconds for p in parts]).tolist() == pytest.approx([i / 25 for i in wanted])


def test_both_decoders_agree_to_the_bit(numbered_mp4: Path) -> None:
    if not has_decord():
        pytest.skip("decord has no wheel here")
    mine, other = (read_frames(numbered_mp4, indices=[3, 50, 99], decoder=d) for d in ("decord", "pyav"))  # type: ignore[arg-type]
    assert (mine.decoder, other.decoder) == ("decord", "pyav")
    assert np.array_equal(mine.pixels, other.pixels)


def test_what_is_no_video_says_so(tmp_path: Path) -> None:
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "page.mp4").write_text("<html>not a video</html>")
    for path, message in (
        (tmp_path / "empty.mp4", "0 bytes"),
        (tmp_path / "page.mp4", "cannot be opened"),
        (tmp_path / "absent.mp4", "no such file"),
        (tmp_path, "folder"),
    ):
        with pytest.raises(DecodeError, match=message) as caught:
            decode.probe(path)
        assert caught.value.stage == "open" and str(path) in str(caught.value)


@pytest.mark.parametrize("name", ["cut.mkv", "cut.avi", "cut.mp4"])
def test_a_truncated_file_is_short_and_never_gives_a_wrong_frame(tmp_path: Path, name: str) -> None:
    whole = tmp_path / f"whole_{name}"
    options = {"g": "24"} if name != "cut.avi" else {"g": "24", "q": "3"}
    write_video(whole, numbered(200), 25, "mpeg4" if name == "cut.avi" else "libx264", options)
    assert not decode.probe(whole).short
    cut = tmp_path / name
    content = whole.read_bytes()
    if name == "cut.mp4":  # the index must stand in front
        fast = tmp_path / "fast.mp4"
        shift(whole, fast, 0.0, {"movflags": "faststart"})
        content = fast.read_bytes()
    cut.write_bytes(content[: len(content) * 6 // 10])
    for decoder in DECODERS:
        with Video(cut, decoder) as video:
            assert video.info.short
            frames = list(chosen_frames(video, FrameChoice(fps=5)))
            numbers = numbers_of(np.concatenate([f.pixels for f in frames]))
            shown = np.concatenate([f.seconds for f in frames])
        assert 5 < len(numbers) < 40 and np.allclose(shown - shown[0], np.array(numbers) / 25, atol=0.041)


@pytest.mark.parametrize("decoder", DECODERS)
def test_damaged_pictures_are_counted(tmp_path: Path, decoder: Decoder) -> None:
    """Bytes flipped in the middle of a file: every library gives pictures, and nobody raises."""
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 255, (60, 120, 160, 3), dtype=np.uint8)
    write_video(tmp_path / "whole.mp4", noise, 25, options={"g": "12", "bf": "0"})
    content = bytearray((tmp_path / "whole.mp4").read_bytes())
    for place in rng.integers(len(content) // 3, len(content) // 2, 40):
        content[place] ^= 0xFF
    (tmp_path / "damaged.mp4").write_bytes(content)
    for name, damaged in (("whole.mp4", False), ("damaged.mp4", True)):
        with Video(tmp_path / name, decoder) as video:
            assert sum(len(f.pixels) for f in chosen_frames(video, FrameChoice(frames=60))) > 40
            assert (video.errors > 0) == damaged


@pytest.mark.parametrize("decoder", DECODERS)
def test_rotation_is_undone(decoder: Decoder) -> None:
    upright, turned, upside_down = (
        read_frames(VIDEOS / f"video_{angle}.mov", indices=[0], decoder=decoder).pixels[0] for angle in (0, 90, 180)
    )
    assert upright.shape == upside_down.shape == (320, 568, 3)
    assert turned.shape == (568, 320, 3)


def picked_as_in_order(path: Path) -> None:
    """Compare frames picked from a file, by whichever decoder, with those that reading it in order gives."""
    with Video(path) as whole:
        whole.scan()
        wanted = np.unique(np.linspace(0, len(whole.info.times) - 1, 5).astype(int))
        expected = np.concatenate([f.pixels for f in whole.iterate(wanted)])
        times = whole.info.times
    for decoder in DECODERS:
        assert np.allclose(decode.probe(path, decoder).times, times), decoder
        assert np.array_equal(read_frames(path, indices=wanted, decoder=decoder).pixels, expected), decoder


@pytest.mark.parametrize("name", ["nasa_vfr.mp4", "odd_size_444.mp4", "nasa_rotated.mp4", "carphone_distorted.mp4"])
def test_real_files_decode_as_in_order(name: str) -> None:
    picked_as_in_order(VIDEOS / name)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        "videos/asl/again.mkv",
        "videos/msvd/j2Dhf-xFUxU_13_20.avi",
        "videos/ucf101/Punch/v_Punch_g01_c03.avi",
        "videos/msrvtt/video7500.mp4",
        "awkward/mpeg1.mpg",
    ],
)
def test_more_real_files_decode_as_in_order(shared: Path, name: str) -> None:
    picked_as_in_order(shared / name)


def _open_and_measure(number_and_path: tuple[int, Path]) -> Iterator[tuple[int, int]]:
    """Resident bytes and open files of a worker after it has read some frames of one more file."""
    number, path = number_and_path
    with Video(path, DECODERS[number % 2]) as video:
        list(video.iterate([0, 60]))
    gc.collect()
    process = psutil.Process()
    yield process.memory_info().rss, process.num_fds() if os.name == "posix" else 0


@pytest.mark.slow
def test_many_opens_do_not_grow_a_worker(numbered_mp4: Path) -> None:
    opens, warm = 500, 60  # after so many opens a worker's memory has its size
    items = [(number, numbered_mp4) for number in range(warm + opens)]
    found = [m for _, m in isolated(_open_and_measure, items, 1) if not isinstance(m, Ended)]
    assert len(found) == warm + opens
    assert found[-1][0] - found[warm][0] < 12 << 20
    assert found[-1][1] <= found[warm][1]


def test_uniform_choice_ignores_key_frames_unless_asked(encoded: Path) -> None:
    info = decode.probe(encoded / "h264_b_frames.mp4")
    assert np.array_equal(FrameChoice(frames=7).of(info), sampling.uniform(info.times, 7).real)
