"""Caching real files with the tiny CLIP: resume, failures, recipes, kill -9."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.helpers.data import VIDEOS
from tests.helpers.numbered import numbered
from videoclip.backbone.openclip import OpenClip
from videoclip.data.manifest import Clip, read_manifest
from videoclip.errors import DataError, StoreError
from videoclip.store import FeatureStore
from videoclip.store.extract import Summary, cache_features, read_clips
from videoclip.video.clip import FrameChoice
from videoclip.video.decode import read_frames
from videoclip.video.encode import write_video

FPS = FrameChoice(fps=5.0)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three good videos and three broken in different ways."""
    videos = tmp_path / "videos"
    videos.mkdir()
    for name, count in (("a.mp4", 30), ("b.mkv", 50), ("c.webm", 12)):
        codec = "libvpx-vp9" if name.endswith("webm") else "libx264"
        write_video(videos / name, numbered(count), 25, codec)
    (videos / "empty.mp4").touch()
    (videos / "page.mp4").write_text("<html>")
    (videos / "sound.mp3").write_bytes(b"ID3" + bytes(200))
    return videos


@pytest.mark.parametrize("workers", [0, 2])
def test_good_clips_are_cached_bad_ones_listed(folder: Path, tmp_path: Path, tiny: OpenClip, workers: int) -> None:
    done = cache_features(read_manifest(folder), tmp_path / "s", tiny, FPS, workers=workers)
    assert done == Summary(cached=3, present=0, failed=3, failed_before=0)
    store = FeatureStore(tmp_path / "s")
    assert sorted(store.ids) == ["a.mp4", "b.mkv", "c.webm"]
    assert {f.id: f.stage for f in store.failures} == {"empty.mp4": "open", "page.mp4": "open", "sound.mp3": "open"}
    assert all(str(folder) in f.reason and f.seconds >= 0 for f in store.failures)
    assert store["a.mp4"].frames.shape == (6, tiny.width) and store["a.mp4"].frames.dtype == torch.float16
    assert store["a.mp4"].seconds.tolist() == pytest.approx([0, 0.2, 0.4, 0.6, 0.8, 1.0])
    again = cache_features(read_manifest(folder), tmp_path / "s", tiny, FPS, workers=workers)
    assert again == Summary(cached=0, present=3, failed=0, failed_before=3)


def test_features_are_those_of_the_backbone(folder: Path, tmp_path: Path, tiny: OpenClip) -> None:
    cache_features(read_manifest(folder)[:1], tmp_path / "s", tiny, FrameChoice(frames=4), dtype="float32", workers=0)
    pixels = tiny.preprocess(read_frames(folder / "a.mp4", indices=[3, 11, 18, 26]).pixels)
    with torch.inference_mode():
        expected = tiny.encode_image(pixels)
    stored = FeatureStore(tmp_path / "s")["a.mp4"]
    torch.testing.assert_close(stored.frames, expected)
    assert stored.seconds.tolist() == pytest.approx([0.12, 0.44, 0.72, 1.04])
    live = read_clips(tiny, [folder / "a.mp4"], 4)
    torch.testing.assert_close(live.frames[0], expected)


def test_a_mended_file_is_retried_and_others_when_asked(folder: Path, tmp_path: Path, tiny: OpenClip) -> None:
    cache_features(read_manifest(folder), tmp_path / "s", tiny, FPS, workers=0)
    shutil.copy(folder / "a.mp4", folder / "page.mp4")  # another file than the one that failed: it is tried again
    done = cache_features(read_manifest(folder), tmp_path / "s", tiny, FPS, workers=0)
    assert done == Summary(cached=1, present=3, failed=0, failed_before=2)
    done = cache_features(read_manifest(folder), tmp_path / "s", tiny, FPS, workers=0, retry_failed=True)
    assert done == Summary(cached=0, present=4, failed=2, failed_before=0)
    store = FeatureStore(tmp_path / "s")
    assert {f.id for f in store.failures} == {"empty.mp4", "sound.mp3"}
    assert torch.equal(store["page.mp4"].frames, store["a.mp4"].frames)


def test_half_a_line_of_the_failures_table_is_no_harm(folder: Path, tmp_path: Path, tiny: OpenClip) -> None:
    clips = read_manifest(folder)
    cache_features([c for c in clips if c.id == "empty.mp4"], tmp_path / "s", tiny, FPS, workers=0)
    with (tmp_path / "s" / "failures-0000.jsonl").open("a") as file:
        file.write('{"id": "page.mp4", "path": "/a')
    cache_features([c for c in clips if c.id in ("page.mp4", "sound.mp3")], tmp_path / "s", tiny, FPS, workers=0)
    assert {f.id for f in FeatureStore(tmp_path / "s").failures} == {"empty.mp4", "page.mp4", "sound.mp3"}


def test_another_recipe_is_refused_with_what_differs(folder: Path, tmp_path: Path, tiny: OpenClip) -> None:
    clips = read_manifest(folder)[:1]
    (tmp_path / "s").mkdir()
    (tmp_path / "s" / "store.json.tmp").touch()  # left by a run that was killed in its first moment
    cache_features(clips, tmp_path / "s", tiny, FPS, workers=0)
    with pytest.raises(StoreError, match=r"fps: 5.0 / 2.0; dtype: float16 / float32"):
        cache_features(clips, tmp_path / "s", tiny, FrameChoice(fps=2.0), dtype="float32", workers=0)
    with pytest.raises(StoreError, match="neither empty nor a feature store"):
        cache_features(clips, folder, tiny, FPS, workers=0)


def test_two_clips_of_one_id_are_refused(folder: Path, tmp_path: Path, tiny: OpenClip) -> None:
    twins = [Clip(id="a", path=folder / "a.mp4"), Clip(id="a", path=folder / "b.mkv")]
    with pytest.raises(DataError, match="the same id"):
        cache_features(twins, tmp_path / "s", tiny, FPS, workers=0)


def test_stretches_of_one_file(folder: Path, tmp_path: Path, tiny: OpenClip) -> None:
    clips = [Clip(id=f"b{i}", path=folder / "b.mkv", start=i * 0.5, end=i * 0.5 + 0.5) for i in range(5)]
    done = cache_features(clips, tmp_path / "s", tiny, FrameChoice(frames=3), workers=0)
    store = FeatureStore(tmp_path / "s")
    assert done.cached == 4 and "no frame between 2.0 and 2.5" in store.failures[0].reason
    for i in range(4):
        assert ((store[f"b{i}"].seconds >= i * 0.5) & (store[f"b{i}"].seconds < i * 0.5 + 0.5)).all()


def test_captions_are_cached_with_the_clips(folder: Path, tmp_path: Path, tiny: OpenClip) -> None:
    clips = [Clip(id="a", path=folder / "a.mp4", captions=("a red circle", "a ring", "a red circle"))]
    cache_features(clips, tmp_path / "s", tiny, FPS, dtype="float32", workers=0)
    store = FeatureStore(tmp_path / "s")
    with torch.inference_mode():
        expected = tiny.encode_text(tiny.tokenize(["a ring", "a red circle"])).sentence
    torch.testing.assert_close(store.text(["a ring", "a red circle"]).sentence, expected)
    assert store.describe()["texts"] == 2
    with pytest.raises(StoreError, match="1 of 2 captions are not in the store, the first is 'a dog'"):
        store.text(["a ring", "a dog"])


def test_a_damaged_file_keeps_the_frames_that_decode(tmp_path: Path, tiny: OpenClip) -> None:
    clip = Clip(id="c", path=VIDEOS / "corrupted.mp4")
    cache_features([clip], tmp_path / "s", tiny, FrameChoice(fps=10), workers=0)
    stored = FeatureStore(tmp_path / "s")["c"]
    assert stored.notes["errors"] > 0 and stored.notes["status"] == "damaged" and len(stored.frames) > 20
    assert FeatureStore(tmp_path / "s").describe()["status"] == {"damaged": 1}


def test_padding_thinning_and_missing_clips(folder: Path, tmp_path: Path, tiny: OpenClip) -> None:
    cache_features(read_manifest(folder), tmp_path / "s", tiny, FPS, workers=0)
    store = FeatureStore(tmp_path / "s")
    video = store.features(["a.mp4", "b.mkv", "c.webm"], frames=4)
    assert video.frames.shape == (3, 4, tiny.width) and video.frames.dtype == torch.float32
    assert video.mask.tolist() == [[True] * 4, [True] * 4, [True, True, True, False]]
    assert not video.frames[2, 3].any()
    assert store.features(["a.mp4", "b.mkv"]).frames.shape == (2, 10, tiny.width)
    random = store.features(["b.mkv"], 4, generators=[np.random.default_rng(0)]).seconds[0]
    assert (random.diff() > 0).all()
    with pytest.raises(StoreError, match="no clip 'empty.mp4': .*0 bytes"):
        store["empty.mp4"]
    with pytest.raises(StoreError, match="never cached"):
        store["nothing"]


def test_describe_round_trips_as_json(shapes_store: FeatureStore) -> None:
    described = json.loads(json.dumps(shapes_store.describe()))
    assert described["recipe"]["frames"] == 12 and described["clips"] == len(shapes_store) == 24 + 2 * 13
    assert described["fingerprint"] == shapes_store.fingerprint
