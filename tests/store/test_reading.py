"""Reading a store for training: loaders, thinning, views, words, memory, addresses elsewhere."""

from __future__ import annotations

import pickle
from pathlib import Path

import fsspec
import numpy as np
import psutil
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from tests.helpers.numbered import numbered
from videoclip.backbone.openclip import OpenClip
from videoclip.cli import main
from videoclip.data.manifest import Clip, read_manifest, write_manifest
from videoclip.errors import StoreError
from videoclip.features import VideoFeatures
from videoclip.store import FeatureStore
from videoclip.store.dataset import StoredClips
from videoclip.store.extract import Extras, cache_features
from videoclip.store.recipe import Recipe, create_description
from videoclip.store.shards import ShardWriter
from videoclip.video.clip import FrameChoice
from videoclip.video.decode import probe, read_frames
from videoclip.video.encode import write_video


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> FeatureStore:
    """Two hundred clips of 1 to 20 frames at 2 a second; every value tells its clip and frame."""
    folder = tmp_path_factory.mktemp("made") / "s"
    recipe = Recipe("b", {}, None, 2.0, "exact", "auto", "fp32", "float16", {"frames": [8]})
    create_description(folder, recipe, {"name": "made", "pretrained": None})
    with ShardWriter(folder, "clips", recipe.tensors, "float16", shard_bytes=8000) as writer:
        for number in range(200):
            count = 1 + number % 20
            rows = np.full((count, 8), number, np.float16)
            rows[:, 1] = np.arange(count)
            writer.add(f"c{number}", {"frames": rows}, seconds=[i / 2 for i in range(count)], status="ok")
    assert len(list(folder.glob("clips-*.idx"))) > 2
    return FeatureStore(folder)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("in_memory", [False, True])
def test_loaders_of_any_kind_give_the_same(made: FeatureStore, workers: int, in_memory: bool) -> None:
    store = FeatureStore(made.folder, in_memory)
    data = StoredClips(store, frames=12)
    loader = DataLoader(data, batch_size=16, collate_fn=StoredClips.collate, num_workers=workers)
    batches = list(loader)
    assert [len(batch) for batch in batches] == [16] * 12 + [8]
    joined = VideoFeatures.cat(batches)
    for number, clip_id in enumerate(data.ids):
        real = joined.mask[number]
        assert real.sum() == min(12, len(store[clip_id].frames)) and not joined.frames[number][~real].any()
        assert (joined.frames[number][real][:, 0] == int(clip_id[1:])).all()
        assert torch.equal(joined.frames[number][real][:, 1], joined.seconds[number][real] * 2)


@settings(max_examples=40, deadline=None)
@example(fps=1.5, frames=13, clip=177)  # two of thirteen equal segments share a frame
@given(fps=st.floats(0.05, 2.0), frames=st.one_of(st.none(), st.integers(1, 25)), clip=st.integers(0, 199))
def test_any_coarser_choice_is_a_choice_among_the_stored(
    made: FeatureStore, fps: float, frames: int | None, clip: int
) -> None:
    video = made.features([f"c{clip}"], frames, fps=fps)
    seconds = video.seconds[0][video.mask[0]]
    stored = made[f"c{clip}"].seconds
    assert len(seconds) >= 1 and (seconds.diff() > 0).all() and set(seconds.tolist()) <= set(stored.tolist())
    if frames is None:
        assert len(seconds) <= float(stored[-1] - stored[0] + 0.5) * fps + 1
        assert len(seconds) == len(stored) or (seconds.diff() > 1 / fps - 0.5 - 1e-6).all()


def test_a_finer_choice_than_stored_is_refused(made: FeatureStore) -> None:
    with pytest.raises(StoreError, match="has 2 frames a second, 3 were asked for"):
        made.features(["c1"], fps=3)


def test_reading_again_and_again_keeps_memory_flat(tmp_path: Path) -> None:
    """Twelve times the bytes of a store of 75 MiB pass by, and stay out of this process."""
    recipe = Recipe("b", {}, None, 1.0, "exact", "auto", "fp32", "float16", {"frames": [512]})
    create_description(tmp_path / "s", recipe, {"name": "made", "pretrained": None})
    rows = np.random.default_rng(0).normal(size=(12, 512)).astype(np.float16)
    with ShardWriter(tmp_path / "s", "clips", recipe.tensors, "float16") as writer:
        for number in range(6400):
            writer.add(f"c{number}", {"frames": rows}, seconds=list(range(12)), status="ok")
    data, process = StoredClips(FeatureStore(tmp_path / "s")), psutil.Process()
    rng, held = np.random.default_rng(1), []
    for step in range(600):
        data.__getitems__(rng.integers(len(data), size=128).tolist())
        if step % 20 == 0:
            held.append(process.memory_info().rss)
    assert max(held[4:]) - min(held[4:]) < 90 << 20  # the maps are let go of every 64 MiB


def test_what_does_not_fit_into_memory_says_so(made: FeatureStore, monkeypatch: pytest.MonkeyPatch) -> None:
    class Nothing:
        available = 100

    monkeypatch.setattr(psutil, "virtual_memory", Nothing)
    with pytest.raises(StoreError, match="needs 0 MiB in memory, 0 are free; open it without in_memory"):
        FeatureStore(made.folder, in_memory=True)


def test_stores_and_datasets_can_be_pickled_without_their_maps(made: FeatureStore) -> None:
    made.features(made.ids)
    assert len(pickle.dumps(StoredClips(made))) < 200_000
    assert torch.equal(pickle.loads(pickle.dumps(made))["c7"].frames, made["c7"].frames)


def test_views_patches_and_words(tmp_path: Path, tiny: OpenClip) -> None:
    video, caption = tmp_path / "wide.mp4", "a red circle moves"
    write_video(video, numbered(20, 64, 192), 10)
    clips = [Clip(id="w", path=video, captions=(caption, "a ring"))]
    extras = Extras(patches=True, words=True, crops=True, augmentations=2)
    cache_features(clips, tmp_path / "s", tiny, FrameChoice(frames=4), dtype="float32", extras=extras, workers=0)
    store = FeatureStore(tmp_path / "s")
    stored = store["w"]
    assert store.recipe.views == ["crop-first", "crop-middle", "crop-last", "augment-0", "augment-1"]
    assert stored.views is not None and stored.views.shape == (4, 5, 128)
    pixels = read_frames(video, seconds=stored.seconds.numpy()).pixels
    with torch.inference_mode():
        for crop, name in ((pixels[:, :, :64], "crop-first"), (pixels[:, :, -64:], "crop-last")):
            expected = tiny.encode_image(tiny.preprocess(crop.copy()))
            torch.testing.assert_close(store.features(["w"], view=name).frames[0], expected)
        torch.testing.assert_close(store.features(["w"], view="crop-middle").frames, store.features(["w"]).frames)
        plain, patches = tiny.encode_patches(tiny.preprocess(pixels))
        text = tiny.encode_text(tiny.tokenize([caption, "a ring"]), words=True)
    torch.testing.assert_close(stored.frames, plain)
    torch.testing.assert_close(stored.patches, patches)
    cached = store.text([caption, "a ring"], words=True)
    assert cached.words is not None and text.words is not None and cached.mask is not None and text.mask is not None
    longest = cached.mask.shape[1]
    assert torch.equal(cached.mask, text.mask[:, :longest]) and not text.mask[:, longest:].any()
    torch.testing.assert_close(cached.words[cached.mask], text.words[text.mask])
    with pytest.raises(StoreError, match="has no view 'left'; its views: crop-first"):
        store.features(["w"], view="left")
    with pytest.raises(StoreError, match=r"words: True / False"):
        cache_features(clips, tmp_path / "s", tiny, FrameChoice(frames=4), dtype="float32", workers=0)


def test_augmentations_are_the_same_for_all_frames_and_every_time(tmp_path: Path, tiny: OpenClip) -> None:
    still = np.repeat(numbered(1, 64, 96, first=21845), 30, 0)
    write_video(tmp_path / "still.mp4", still, 10, options={"qp": "0"})
    clips = [Clip(id="still", path=tmp_path / "still.mp4")]
    found = []
    for name in ("a", "b"):
        cache_features(clips, tmp_path / name, tiny, FrameChoice(frames=20), extras=Extras(augmentations=3), workers=0)
        found.append(FeatureStore(tmp_path / name)["still"].views)
    assert torch.equal(found[0], found[1])
    assert (found[0][0] - found[0][-1]).abs().max() < 0.02 < (found[0][:, 0] - found[0][:, 1]).abs().max()


def test_key_sampling_is_another_recipe(numbered_mp4: Path, tmp_path: Path, tiny: OpenClip) -> None:
    clips, info = [Clip(id="n", path=numbered_mp4)], probe(numbered_mp4)
    key_times = set(info.times[info.keys].round(6).tolist())
    cache_features(clips, tmp_path / "s", tiny, FrameChoice(frames=3, sampling="key"), workers=0)
    assert set(FeatureStore(tmp_path / "s")["n"].seconds.tolist()) <= key_times
    with pytest.raises(StoreError, match="sampling: key / exact"):
        cache_features(clips, tmp_path / "s", tiny, FrameChoice(frames=3), workers=0)


def test_videos_and_stores_at_an_address(shapes: Path, tmp_path: Path, tiny: OpenClip) -> None:
    """An in-memory file system stands for s3 and the like."""
    files = fsspec.filesystem("memory")
    clips = read_manifest(shapes)[:3]
    for clip in clips:
        files.put_file(str(clip.path), f"/videos/{Path(clip.path).name}")
    elsewhere = read_manifest("memory://videos")
    assert [clip.id for clip in elsewhere] == sorted(Path(clip.path).name for clip in clips)
    absent = Clip(id="absent", path="memory://videos/absent.mp4")
    files.pipe_file("/videos/page.mp4", b"<html>")
    choice = FrameChoice(frames=3)
    done = cache_features(
        [*elsewhere, absent, Clip(id="page", path="memory://videos/page.mp4")],
        tmp_path / "s",
        tiny,
        choice,
        workers=0,
        push_to="memory://stores/a",
        shard_mib=1,
    )
    assert (done.cached, done.failed) == (3, 2)
    reasons = {f.id: f.reason for f in FeatureStore(tmp_path / "s").failures}
    assert "memory://videos/absent.mp4: cannot be fetched (FileNotFoundError" in reasons["absent"]
    assert reasons["page"].startswith("memory://videos/page.mp4: cannot be opened as a video")
    here = FeatureStore(tmp_path / "s")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
        there = FeatureStore("memory://stores/a")
        assert there.ids == here.ids and [f.id for f in there.failures] == ["absent", "page"]
        assert all(torch.equal(there[i].frames, here[i].frames) for i in here.ids)
        cache_features(
            [*elsewhere, Clip(id="again", path=clips[0].path)],
            tmp_path / "s",
            tiny,
            choice,
            workers=0,
            push_to="memory://stores/a",
        )
        assert "again" in FeatureStore("memory://stores/a")
        with pytest.raises(StoreError, match="memory://stores/none: cannot be fetched"):
            FeatureStore("memory://stores/none")


def test_a_manifest_may_name_addresses(tmp_path: Path) -> None:
    clips = [Clip(id="a", path="s3://bucket/a.mp4"), Clip(id="b", path=tmp_path / "b.mp4")]
    write_manifest(clips, tmp_path / "m.jsonl")
    assert read_manifest(tmp_path / "m.jsonl") == clips


def test_store_list(shapes_store: FeatureStore, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["store", "list", str(shapes_store.folder)]) == 0
    assert len(capsys.readouterr().out.splitlines()) == len(shapes_store)
    assert main(["store", "list", str(shapes_store.folder), "--status", "damaged"]) == 0
    assert capsys.readouterr().out == ""
