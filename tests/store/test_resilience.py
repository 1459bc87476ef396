"""What happens to long jobs: kill -9, full and read-only disks, decoders that hang, crash and eat memory."""

from __future__ import annotations

import contextlib
import ctypes
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch

from tests.helpers.data import VIDEOS
from tests.helpers.numbered import long_frames, numbered
from tests.helpers.stores import content
from videoclip.backbone.openclip import OpenClip
from videoclip.data.manifest import Clip, read_manifest
from videoclip.errors import StoreError
from videoclip.store import FeatureStore, extract
from videoclip.store.extract import cache_features
from videoclip.store.produce import Message, Producer
from videoclip.video.clip import FrameChoice
from videoclip.video.encode import write_video
from videoclip.video.isolation import Ended, Limits, isolated

FPS = FrameChoice(fps=5.0)


def lines(folder: Path) -> int:
    return sum(path.read_bytes().count(b"\n") for path in folder.glob("clips-*.idx"))


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files that take a worker some seconds together, and two that cannot be read."""
    folder = tmp_path_factory.mktemp("many")
    for number in range(40):
        frames = np.roll(numbered(100, 240, 320), number, axis=2)
        write_video(folder / f"{number:02d}.mp4", frames, 25, options={"preset": "ultrafast"})
    (folder / "empty.mp4").touch()
    (folder / "page.mp4").write_text("<html>")
    return folder


@pytest.mark.slow
def test_ten_kills_change_nothing(many: Path, tmp_path: Path, tiny: OpenClip) -> None:
    """Killed at ten random moments and started again, once with other workers, the store is that of one clean run."""
    cache_features(read_manifest(many), tmp_path / "clean", tiny, FPS, workers=0)
    command = [sys.executable, "-m", "videoclip.cli", "cache", str(many), "--out", str(tmp_path / "s"), "--fps", "5"]
    rng, before = random.Random(0), 0
    for kill in range(10):
        process = subprocess.Popen(
            [*command, "--workers", "3" if kill == 4 else "2"], start_new_session=True, stdout=subprocess.DEVNULL
        )
        deadline = time.monotonic() + 60
        # The first kills come while the program starts or makes the store, the others once it has committed more.
        while kill > 2 and lines(tmp_path / "s") <= before and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(rng.uniform(0, 3 if kill < 3 else 0.3))
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        if (tmp_path / "s" / "store.json").exists():
            assert set(FeatureStore(tmp_path / "s").ids) <= {clip.id for clip in read_manifest(many)}
            before = len(FeatureStore(tmp_path / "s"))
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    assert content(tmp_path / "s") == content(tmp_path / "clean")
    assert lines(tmp_path / "s") == 40  # no clip twice
    assert {f.id for f in FeatureStore(tmp_path / "s").failures} == {"empty.mp4", "page.mp4"}


def test_killed_in_the_middle_of_the_work_loses_two_seconds_at_most(many: Path, tmp_path: Path, tiny: OpenClip) -> None:
    """Workers die with their parent, and what was committed is continued to the store of a run without a kill."""
    command = [sys.executable, "-m", "videoclip.cli", "cache", str(many), "--out", str(tmp_path / "s"), "--fps", "25"]
    process = subprocess.Popen([*command, "--workers", "1"], stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while lines(tmp_path / "s") == 0 and time.monotonic() < deadline:
        time.sleep(0.02)
    children = psutil.Process(process.pid).children(recursive=True)
    process.kill()
    process.wait()
    committed = len(FeatureStore(tmp_path / "s"))
    assert 0 < committed < len(read_manifest(many))
    assert children
    _, alive = psutil.wait_procs(children, timeout=10)
    assert not alive
    some = read_manifest(many)[committed - 1 : committed + 2]  # one that was there, one torn; the rest say the same
    for folder in ("s", "clean"):
        cache_features(some, tmp_path / folder, tiny, FrameChoice(fps=25.0), workers=0)
    whole, clean = content(tmp_path / "s"), content(tmp_path / "clean")
    assert clean.keys() <= whole.keys()
    assert all(whole[name] == clean[name] for name in clean)
    assert lines(tmp_path / "s") == len(whole)  # no clip twice


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Mount a file system of 100 KiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=100k", "tmpfs", str(folder)], check=False, capture_output=True
    )
    if made.returncode:
        pytest.skip("only root may mount a small file system")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_loses_nothing(many: Path, small_disk: Path, tmp_path: Path, tiny: OpenClip) -> None:
    clips, dense = read_manifest(many)[:6], FrameChoice(fps=25.0)  # 6 x 100 x 128 half-precision numbers: 150 KiB
    cache_features(clips, tmp_path / "clean", tiny, dense, workers=0)
    with pytest.raises(StoreError, match="Cannot write to .*: No space left on device. Committed data is safe"):
        cache_features(clips, small_disk / "s", tiny, dense, workers=0)
    FeatureStore(small_disk / "s")
    subprocess.run(["mount", "-o", "remount,size=4m", str(small_disk)], check=True)
    cache_features(clips, small_disk / "s", tiny, dense, workers=0)
    assert content(small_disk / "s") == content(tmp_path / "clean")


def test_a_read_only_folder_says_so(many: Path, small_disk: Path, tiny: OpenClip) -> None:
    clips = read_manifest(many)[:3]
    cache_features(clips[:1], small_disk / "s", tiny, FPS, workers=0)
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    for name in ("s", "new"):
        with pytest.raises(StoreError, match="Cannot write to .*: Read-only file system"):
            cache_features(clips, small_disk / name, tiny, FPS, workers=0)
    assert FeatureStore(small_disk / "s").ids == ["00.mp4"]
    subprocess.run(["mount", "-o", "remount,rw", str(small_disk)], check=True)
    cache_features(clips, small_disk / "s", tiny, FPS, workers=0)
    assert len(FeatureStore(small_disk / "s")) == 3


class FaultyProducer(Producer):
    """A producer whose decoder hangs, crashes, or asks for 4 GiB, for the clips of those names."""

    def __call__(self, clip: Clip) -> Iterator[Message]:
        for message in super().__call__(clip):
            yield message  # the first one says that decoding begins
            if clip.id == "03.mp4":
                ctypes.PyDLL(None).sleep(600)  # keeps the interpreter lock: no Python code of this process runs
            elif clip.id == "07.mp4":
                ctypes.string_at(0)
            elif clip.id == "11.mp4":
                np.ones(4 << 30, np.uint8)
            elif clip.id == "13.mp4":
                os._exit(3)


def test_planted_faults_cost_their_clip_only(
    many: Path, tmp_path: Path, tiny: OpenClip, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(extract, "Producer", FaultyProducer)
    clips = [clip for clip in read_manifest(many) if clip.id < "14"]
    began = time.monotonic()
    done = cache_features(clips, tmp_path / "s", tiny, FPS, workers=2, limits=Limits(seconds=3, memory_mib=1024))
    assert time.monotonic() - began < 40
    assert (done.cached, done.failed) == (10, 4)
    failures = {f.id: f for f in FeatureStore(tmp_path / "s").failures}
    for name, reason in {
        "03.mp4": "no frame came for 3 seconds",
        "07.mp4": "its process was ended by SIGSEGV",
        "11.mp4": "more than 1024 MiB of memory were asked for",
        "13.mp4": "its process ended by itself (exit status 3)",
    }.items():
        assert reason in failures[name].reason and failures[name].stage == "decode"
        assert failures[name].decoder in ("decord", "pyav") and str(many / name) in failures[name].reason
    assert 2.9 <= failures["03.mp4"].seconds < 6
    monkeypatch.undo()
    again = cache_features(clips, tmp_path / "s", tiny, FPS, workers=1, retry_failed="SIGSEGV")
    assert (again.cached, again.failed_before) == (1, 3)
    assert cache_features(clips, tmp_path / "s", tiny, FPS, workers=1, retry_failed=True).cached == 3


def _echo(item: int) -> Iterator[tuple[int, int]]:
    yield item, os.getpid()
    if item == 5:
        raise ValueError("five")


def test_children_are_replaced_after_some_items() -> None:
    found = list(isolated(_echo, range(20), 2, Limits(items=4)))
    answers = [message for _, message in found if not isinstance(message, Ended)]
    assert sorted(item for item, _ in answers) == list(range(20))
    assert len({process for _, process in answers}) >= 5
    assert [(i, m.error) for i, m in found if isinstance(m, Ended) and m.error] == [(5, "ValueError: five")]


class Poison:
    """An item that ends the process which takes it, before any work on it has begun."""

    def __reduce__(self) -> tuple[object, tuple[int]]:
        return os._exit, (7,)


def test_a_death_between_two_items_is_blamed_on_neither_of_its_neighbours() -> None:
    items: list[object] = [1, 2, Poison(), 3, 4]
    found = list(isolated(_echo, items, 1))  # type: ignore[arg-type]
    ended = [(item, message.error) for item, message in found if isinstance(message, Ended)]
    assert sorted(item for item, error in ended if not error) == [1, 2, 3, 4]  # type: ignore[type-var]
    assert [error for item, error in ended if isinstance(item, Poison)] == [
        "its process ended by itself (exit status 7)"
    ]


def peak_mib(command: list[str]) -> float:
    """Most resident memory of a command and all its children together."""
    process, peaks = subprocess.Popen(command, stdout=subprocess.DEVNULL), [0]
    watched = psutil.Process(process.pid)

    def watch() -> None:
        while process.poll() is None:
            with contextlib.suppress(psutil.Error):  # one of them has just ended: the next look tells
                family = [watched, *watched.children(recursive=True)]
                peaks.append(sum(one.memory_info().rss for one in family))
            time.sleep(0.02)

    thread = threading.Thread(target=watch)
    thread.start()
    assert process.wait() == 0
    thread.join()
    return max(peaks) / 2**20


@pytest.mark.slow
def test_memory_does_not_depend_on_length(tmp_path: Path) -> None:
    options = {"preset": "ultrafast", "g": "50"}
    peaks = []
    for minutes in (1, 40):
        path = tmp_path / f"{minutes}" / "video.mp4"
        path.parent.mkdir()
        write_video(path, long_frames(minutes * 60 * 10), 10, options=options)
        out = str(tmp_path / f"store{minutes}")
        command = [sys.executable, "-m", "videoclip.cli", "cache", str(path.parent), "--out", out, "--workers", "1"]
        peaks.append(peak_mib(command))
        assert len(FeatureStore(out)["video.mp4"].frames) == minutes * 60
    assert peaks[1] < 1.1 * peaks[0], peaks


def test_short_and_damaged_files_are_kept_or_refused(tmp_path: Path, tiny: OpenClip) -> None:
    whole = tmp_path / "whole.mkv"
    write_video(whole, numbered(200), 25, options={"g": "24"})
    (tmp_path / "cut.mkv").write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    clips = [Clip(id=p.name, path=p) for p in (whole, tmp_path / "cut.mkv", VIDEOS / "corrupted.mp4")]
    cache_features(clips, tmp_path / "kept", tiny, FPS, workers=0)
    kept = FeatureStore(tmp_path / "kept")
    status = {i: kept[i].notes["status"] for i in kept.ids}
    assert status["whole.mkv"] == "ok" and "short" in status["cut.mkv"] and "damaged" in status["corrupted.mp4"]
    assert all(torch.isfinite(kept[i].frames).all() and kept[i].frames.abs().sum(-1).min() > 0 for i in kept.ids)
    done = cache_features(clips, tmp_path / "refused", tiny, FPS, workers=0, broken="refuse")
    assert (done.cached, done.failed) == (1, 2)
    reasons = {f.id: (f.stage, f.reason) for f in FeatureStore(tmp_path / "refused").failures}
    assert "is short: it claims 8.00 s" in reasons["cut.mkv"][1] and reasons["cut.mkv"][0] == "check"
    assert "is damaged" in reasons["corrupted.mp4"][1]
