"""Everything that real decoders were tested with: cached right, or listed with a reason."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import pytest

from tests.helpers.data import VIDEOS
from videoclip.backbone.openclip import OpenClip
from videoclip.cli import main
from videoclip.data.manifest import MEDIA_SUFFIXES
from videoclip.store import FeatureStore
from videoclip.video.decode import probe, read_frames

UNREADABLE = {
    "audio_only.mp3": "holds no video stream, only audio",
    "chunk_out_of_range.mp4": "cannot be opened as a video",
    "empty.webm": "is empty",
    "init_segment_only.mp4": "holds no video stream",
    "lfs_pointer.mp4": "cannot be opened as a video",
    "no_moov.mp4": "holds no video stream",
    "zero_empty_stsc.mp4": "none of its frames can be decoded",
}


@pytest.fixture(scope="module", params=[19, pytest.param(36, marks=pytest.mark.slow)])
def folder(request: pytest.FixtureRequest) -> Path:
    """Name the folder that holds so many files: those of the repository, or all."""
    found: Path = VIDEOS if request.param == 19 else request.getfixturevalue("shared") / "awkward"
    assert sum(path.suffix in MEDIA_SUFFIXES for path in found.iterdir()) == request.param
    return found


@pytest.fixture(scope="module")
def awkward(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> FeatureStore:
    out = tmp_path_factory.mktemp("awkward") / "s"
    assert main(["cache", str(folder), "--out", str(out), "--fps", "4"]) == 0
    return FeatureStore(out)


def test_every_file_is_cached_or_listed(awkward: FeatureStore, folder: Path) -> None:
    files = {p.name for p in folder.iterdir() if p.suffix in MEDIA_SUFFIXES}
    unreadable = files & set(UNREADABLE)
    assert set(awkward.ids) == files - unreadable
    reasons = {f.id: f.reason for f in awkward.failures}
    assert set(reasons) == unreadable
    assert all(UNREADABLE[name] in reason for name, reason in reasons.items())


def test_cached_frames_are_those_that_pyav_decodes_in_order(awkward: FeatureStore, folder: Path) -> None:
    for name in awkward.ids:
        times = awkward[name].seconds.numpy()
        mine = read_frames(folder / name, seconds=times)
        assert np.allclose(mine.seconds, times, atol=1e-5), name
        theirs = decoded_in_order(folder / name)
        for picture, seconds in zip(mine.pixels, mine.seconds, strict=True):
            shown, expected = min(theirs, key=lambda pair: abs(pair[0] - seconds))
            assert abs(shown - seconds) < 1e-3, name
            assert picture.shape == expected.shape, name
            assert np.abs(picture.astype(int) - expected).mean() < 3, name


def decoded_in_order(path: Path) -> list[tuple[float, np.ndarray]]:
    """Time and upright picture of every frame, by nothing but PyAV's own loop."""
    found = []
    with av.open(str(path)) as container:
        stream = container.streams.best("video")
        for packet in container.demux(stream):
            try:
                for frame in packet.decode():
                    turned = np.rot90(frame.to_ndarray(format="rgb24"), round(frame.rotation / 90) % 4)
                    found.append((float(frame.pts * frame.time_base), turned))
            except av.error.FFmpegError:
                continue
    return found


def test_rotation_and_variable_rate(awkward: FeatureStore, folder: Path) -> None:
    sideways = [name for name in awkward.ids if name in ("video_90.mov", "nasa_rotated.mp4")]
    assert len(sideways) == 2
    for name in sideways:
        pixels = read_frames(folder / name, indices=[0]).pixels[0]
        assert pixels.shape[0] > pixels.shape[1], name
    for name in ("nasa_vfr.mp4", "no_duration.webm"):
        times, stored = probe(folder / name).times, awkward[name].seconds.numpy()
        wishes = np.arange(times[0], times[-1], 0.25)
        for wish in wishes:
            frame = np.abs(times - wish).argmin()
            gap = max(np.diff(times)[max(0, frame - 1) : frame + 1])
            assert np.abs(stored - wish).min() <= gap / 2 + 1e-6, name


def test_damage_is_flagged(awkward: FeatureStore, tiny: OpenClip) -> None:
    flagged = {name for name in awkward.ids if awkward[name].notes["status"] != "ok"}
    assert flagged == {"corrupted.mp4"}
