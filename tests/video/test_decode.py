"""Both decoders on files whose frames carry their own number: what was asked for is what comes out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.conftest import numbered, numbers_of
from videoclip.errors import DecodeError
from videoclip.video import decode
from videoclip.video.encode import write_video

ENCODINGS = {
    "h264_b_frames.mp4": ("libx264", {"g": "12", "bf": "3"}, "yuv420p"),
    "h264_no_b_frames.mkv": ("libx264", {"g": "30", "bf": "0"}, "yuv420p"),
    "h264_one_group.mp4": ("libx264", {"g": "250"}, "yuv420p"),
    "h264_open_gop.mp4": ("libx264", {"g": "12", "bf": "3", "x264-params": "open-gop=1"}, "yuv420p"),
    "h264_in.avi": ("libx264", {"g": "12", "bf": "0"}, "yuv420p"),
    "hevc_closed_gop.mp4": ("libx265", {"x265-params": "keyint=12:open-gop=0:log-level=none"}, "yuv420p"),
    "h264_transport.ts": ("libx264", {"g": "12", "bf": "2"}, "yuv420p"),
    "h264_raw.h264": ("libx264", {"g": "12", "bf": "0"}, "yuv420p"),
    "h264_ten_bit.mp4": ("libx264", {"g": "12"}, "yuv420p10le"),
    "h264_444.mp4": ("libx264", {"g": "12"}, "yuv444p"),
    "hevc.mp4": ("libx265", {"x265-params": "keyint=12:log-level=none"}, "yuv420p"),
    "vp9.webm": ("libvpx-vp9", {"g": "12"}, "yuv420p"),
    "av1.mkv": ("libsvtav1", {"g": "12"}, "yuv420p"),
    "mpeg4.avi": ("mpeg4", {"g": "12", "q": "3"}, "yuv420p"),
    "mpeg2.mpg": ("mpeg2video", {"g": "12", "qmin": "2", "qmax": "3"}, "yuv420p"),
    "one_frame.mp4": ("libx264", {}, "yuv420p"),
}
NOT_DECORD = {
    "h264_open_gop.mp4",
    "h264_in.avi",
    "h264_transport.ts",
    "h264_raw.h264",
    "h264_ten_bit.mp4",
    "hevc.mp4",  # x265 makes open GOPs unless told otherwise
    "av1.mkv",
    "mpeg4.avi",
    "mpeg2.mpg",
}


@pytest.fixture(scope="module")
def encoded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("encoded")
    for name, (codec, options, pixel_format) in ENCODINGS.items():
        count = 1 if name.startswith("one_frame") else 60
        write_video(folder / name, numbered(count), 25, codec, options, pixel_format)
    return folder


@pytest.mark.parametrize("decoder", ["auto", "pyav"])
@pytest.mark.parametrize("name", ENCODINGS)
def test_every_frame_is_the_one_asked_for(encoded: Path, name: str, decoder: decode.Decoder) -> None:
    info = decode.probe(encoded / name, decoder)
    count = 1 if name.startswith("one_frame") else 60
    assert len(info.times) == count
    for wanted in (range(count), range(0, count, 7), [count - 1], [count // 2, 0, count // 2]):
        frames = decode.read(info, list(wanted))
        assert numbers_of(frames.pixels) == list(wanted)
        assert frames.pixels.dtype == np.uint8 and frames.pixels.shape[1:] == (64, 96, 3)
        assert np.allclose(frames.seconds - info.times[0], np.array(list(wanted)) / 25, atol=1.5e-3)


@pytest.mark.parametrize("name", ENCODINGS)
def test_decord_reads_only_what_it_reads_right(encoded: Path, name: str) -> None:
    info = decode.probe(encoded / name)
    assert (info.decoder == "pyav") == (name in NOT_DECORD or not decode._has_decord()), info.reason
    if name in NOT_DECORD:
        assert info.reason
        with pytest.raises(DecodeError, match=info.reason):
            decode.probe(encoded / name, "decord")


def test_by_time_and_stretch(numbered_mp4: Path) -> None:
    assert numbers_of(decode.read_frames(numbered_mp4, seconds=[0.0, 1.0, 3.18]).pixels) == [0, 25, 80]
    inside = decode.read_frames(numbered_mp4, indices=[0, 24], start=2.0, end=3.0)
    assert numbers_of(inside.pixels) == [50, 74] and inside.seconds.tolist() == pytest.approx([2.0, 2.96])
    assert numbers_of(decode.read_frames(numbered_mp4, seconds=[0.0], start=2.0).pixels) == [50]
    assert len(decode.read_frames(numbered_mp4).pixels) == 100


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
        decode.read_frames(numbered_mp4, **arguments)  # type: ignore[arg-type]


def test_chunks_join_to_the_whole(numbered_mp4: Path) -> None:
    for decoder in ("auto", "pyav"):
        info = decode.probe(numbered_mp4, decoder)  # type: ignore[arg-type]
        wanted = list(range(0, 100, 3))
        parts = list(decode.iterate(info, wanted, chunk=8))
        assert [len(p.pixels) for p in parts] == [8, 8, 8, 8, 2]
        assert numbers_of(np.concatenate([p.pixels for p in parts])) == wanted


def test_pyav_goes_on_where_decord_gives_up(numbered_mp4: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """decord fails after its first chunk: no frame comes twice, none is missing."""
    real_reader = decode._decord_reader

    class GivesUp:
        def __init__(self, info: decode.VideoInfo) -> None:
            self.reader, self.calls = real_reader(info), 0

        def get_batch(self, part: np.ndarray) -> object:
            self.calls += 1
            if self.calls > 1:
                raise RuntimeError("cannot go on")
            return self.reader.get_batch(part)

    if not decode._has_decord():
        pytest.skip("decord has no wheel here")
    monkeypatch.setattr(decode, "_decord_reader", GivesUp)
    wanted = list(range(0, 100, 5))
    parts = list(decode.iterate(decode.probe(numbered_mp4), wanted))
    assert numbers_of(np.concatenate([p.pixels for p in parts])) == wanted
    assert [p.decoder for p in parts] == ["decord", "pyav", "pyav"]
    assert np.concatenate([p.seconds for p in parts]).tolist() == pytest.approx([i / 25 for i in wanted])


def test_both_decoders_agree_to_the_bit(numbered_mp4: Path) -> None:
    if not decode._has_decord():
        pytest.skip("decord has no wheel here")
    mine, other = (decode.read(decode.probe(numbered_mp4, d), [3, 50, 99]) for d in ("decord", "pyav"))  # type: ignore[arg-type]
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


def test_a_truncated_file_never_gives_a_wrong_frame(numbered_mp4: Path, tmp_path: Path) -> None:
    mkv = tmp_path / "whole.mkv"
    write_video(mkv, numbered(100), 25, options={"g": "24"})
    cut = tmp_path / "cut.mkv"
    cut.write_bytes(mkv.read_bytes()[: mkv.stat().st_size // 2])
    info = decode.scan(decode.probe(cut))
    assert 10 < len(info.times) < 90
    assert numbers_of(decode.read(info, np.arange(len(info.times))).pixels) == list(range(len(info.times)))


def test_rotation_is_undone(shared: Path) -> None:
    for decoder in ("auto", "pyav"):
        upright, turned, upside_down = (
            decode.read_frames(shared / "awkward" / f"video_{angle}.mov", indices=[0], decoder=decoder).pixels[0]  # type: ignore[arg-type]
            for angle in (0, 90, 180)
        )
        assert upright.shape == upside_down.shape == (320, 568, 3) and turned.shape == (568, 320, 3)


def test_real_files_decode_as_in_order(shared: Path) -> None:
    """Frames picked from real files, by whichever decoder, are those that reading the file in order gives."""
    names = ["asl/again.mkv", "msvd/j2Dhf-xFUxU_13_20.avi", "ucf101/Punch/v_Punch_g01_c03.avi", "msrvtt/video7500.mp4"]
    files = [shared / "videos" / name for name in names]
    files += [
        shared / "awkward" / name for name in ("nasa_vfr.mp4", "odd_size_444.mp4", "mpeg1.mpg", "nasa_rotated.mp4")
    ]
    for path in files:
        whole = decode.scan(decode.probe(path))
        for decoder in ("auto", "pyav"):
            info = decode.probe(path, decoder)  # type: ignore[arg-type]
            assert len(info.times) == len(whole.times), path
            wanted = np.linspace(0, len(info.times) - 1, 5).astype(int)
            assert np.array_equal(decode.read(info, wanted).pixels, decode.read(whole, wanted).pixels), path
