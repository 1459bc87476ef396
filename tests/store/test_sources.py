"""What makes a stored clip the same clip: path, stretch, size and time, or content; lost, changed and vanished ones."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.helpers.numbered import numbered
from videoclip.backbone.openclip import OpenClip
from videoclip.cli import main
from videoclip.data.manifest import Clip, read_manifest
from videoclip.errors import BackboneError, DataError, StoreError
from videoclip.store import FeatureStore
from videoclip.store.dataset import in_store
from videoclip.store.extract import Summary, cache_features
from videoclip.store.transfer import import_features, import_texts, merge, prune, verify
from videoclip.video.clip import FrameChoice
from videoclip.video.encode import write_video

FPS = FrameChoice(fps=5.0)


@pytest.fixture
def videos(tmp_path: Path) -> Path:
    """Two different videos."""
    folder = tmp_path / "videos"
    folder.mkdir()
    write_video(folder / "a.mp4", numbered(30), 25)
    write_video(folder / "b.mp4", numbered(30)[::-1], 25)
    return folder


def cache(folder: Path | list[Clip], out: Path, tiny: OpenClip, **options: object) -> Summary:
    clips = folder if isinstance(folder, list) else read_manifest(folder)
    return cache_features(clips, out, tiny, FPS, workers=0, **options)  # type: ignore[arg-type]


def frames(store: Path, clip_id: str) -> torch.Tensor:
    return FeatureStore(store)[clip_id].frames


def test_a_replaced_file_is_cached_again(videos: Path, tmp_path: Path, tiny: OpenClip) -> None:
    store = tmp_path / "s"
    cache(videos, store, tiny)
    old, other = frames(store, "a.mp4"), frames(store, "b.mp4")
    shutil.copy(videos / "b.mp4", videos / "a.mp4")
    assert cache(videos, store, tiny) == Summary(1, 1, 0, 0, changed=1)
    assert torch.equal(frames(store, "a.mp4"), other) and not torch.equal(old, other)
    assert cache(videos, store, tiny) == Summary(0, 2, 0, 0)
    merged = merge([FeatureStore(store)], tmp_path / "m")
    assert sorted(merged.ids) == ["a.mp4", "b.mp4"] and torch.equal(merged["a.mp4"].frames, other)
    rows = np.load(tmp_path / "m" / "clips-0000-00000.frames.npy")
    assert len(rows) == 2 * len(other)  # the old rows are gone


def test_a_changed_file_that_cannot_be_read_leaves_no_old_features(
    videos: Path, tmp_path: Path, tiny: OpenClip
) -> None:
    cache(videos, tmp_path / "s", tiny)
    (videos / "a.mp4").write_text("<html>")
    assert cache(videos, tmp_path / "s", tiny) == Summary(0, 1, 1, 0, changed=1)
    store = FeatureStore(tmp_path / "s")
    assert store.ids == ["b.mp4"] and [failure.id for failure in store.failures] == ["a.mp4"]


@pytest.mark.parametrize("change", ["stretch", "path"])
def test_another_stretch_or_path_under_an_id_is_cached_again(
    videos: Path, tmp_path: Path, tiny: OpenClip, change: str
) -> None:
    store = tmp_path / "s"
    cache([Clip(id="x", path=videos / "a.mp4", end=0.6)], store, tiny)
    other = {
        "stretch": Clip(id="x", path=videos / "a.mp4", start=0.6, end=1.2),
        "path": Clip(id="x", path=videos / "b.mp4", end=0.6),
    }[change]
    assert cache([other], store, tiny) == Summary(1, 0, 0, 0, changed=1)
    cache([other], tmp_path / "fresh", tiny)
    assert torch.equal(frames(store, "x"), frames(tmp_path / "fresh", "x"))


@pytest.mark.parametrize("change", ["stretch", "file", "nothing"])
def test_training_and_evaluation_refuse_features_of_another_clip(
    videos: Path, tmp_path: Path, tiny: OpenClip, change: str
) -> None:
    clip = Clip(id="x", path=videos / "a.mp4", end=0.6)
    cache([clip], tmp_path / "s", tiny)
    if change == "file":
        shutil.copy(videos / "b.mp4", videos / "a.mp4")
    other = Clip(id="x", path=videos / "a.mp4", end=0.8 if change == "stretch" else 0.6)
    if change == "nothing":
        assert in_store([other], FeatureStore(tmp_path / "s"), False) == [other]
        return
    with pytest.raises(DataError, match="1 clips were cached from another stretch or file .* 'x'"):
        in_store([other], FeatureStore(tmp_path / "s"), allow_missing=True)


@pytest.mark.parametrize("how", ["touched", "moved"])
def test_the_same_content_is_not_cached_again(videos: Path, tmp_path: Path, tiny: OpenClip, how: str) -> None:
    store = tmp_path / "s"
    cache(videos, store, tiny)
    if how == "touched":
        os.utime(videos / "a.mp4", (1, 1))
    else:
        videos = videos.rename(tmp_path / "elsewhere")
    assert cache(videos, store, tiny) == Summary(0, 2, 0, 0)
    assert FeatureStore(store).record("a.mp4").notes["path"] == str(videos / "a.mp4")
    assert FeatureStore(store).vanished == []


def test_stretches_of_one_id_do_not_merge(videos: Path, tmp_path: Path, tiny: OpenClip) -> None:
    for name, end in (("s", 0.6), ("t", 0.8)):
        cache([Clip(id="x", path=videos / "a.mp4", end=end)], tmp_path / name, tiny)
    with pytest.raises(StoreError, match="'x' was made from another file or stretch"):
        merge([FeatureStore(tmp_path / "s"), FeatureStore(tmp_path / "t")], tmp_path / "m")


def test_a_store_of_an_earlier_version_is_compared_by_content(videos: Path, tmp_path: Path, tiny: OpenClip) -> None:
    store = tmp_path / "s"
    cache(videos, store, tiny)
    index = store / "clips-0000-00000.idx"
    lines = [json.loads(line) for line in index.read_text().split("\n") if line]
    for line in lines:
        for name in ("path", "stretch", "bytes", "modified"):
            del line[name]
    index.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert cache(videos, store, tiny) == Summary(0, 2, 0, 0)
    shutil.copy(videos / "b.mp4", videos / "a.mp4")
    assert cache(videos, store, tiny).changed == 1


def test_vanished_clips_are_reported_marked_and_pruned(
    videos: Path, tmp_path: Path, tiny: OpenClip, capsys: pytest.CaptureFixture[str]
) -> None:
    store = tmp_path / "s"
    cache(videos, store, tiny)
    (videos / "b.mp4").rename(videos / "c.mp4")
    arguments = ["cache", str(videos), "--out", str(store), "--model", "tiny", "--fps", "5", "--workers", "0"]
    assert main(arguments) == 0
    assert "1 clips of the store no longer have a video file, such as b.mp4" in capsys.readouterr().out
    assert main(["search", str(store), "a ring", "-k", "3"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.endswith("(its file no longer exists)") for line in lines] == ["b.mp4" in line for line in lines]
    assert main(["store", "prune", str(store)]) == 0
    assert FeatureStore(store).ids == ["a.mp4", "c.mp4"]
    (videos / "c.mp4").rename(videos / "b.mp4")
    assert cache(videos, store, tiny) == Summary(1, 1, 0, 0, vanished=1)
    assert prune(FeatureStore(store)) == ["c.mp4"]
    assert sorted(FeatureStore(store).ids) == ["a.mp4", "b.mp4"]


def test_a_store_without_its_videos_has_not_lost_them(videos: Path, tmp_path: Path, tiny: OpenClip) -> None:
    cache(videos, tmp_path / "s", tiny)
    shutil.rmtree(videos)
    assert FeatureStore(tmp_path / "s").vanished == [] and prune(FeatureStore(tmp_path / "s")) == []


@pytest.mark.parametrize("damage", ["missing", "cut"])
def test_rows_that_are_not_there_are_cached_again(videos: Path, tmp_path: Path, tiny: OpenClip, damage: str) -> None:
    store = tmp_path / "s"
    cache(videos, store, tiny)
    shard = store / "clips-0000-00000.frames.npy"
    whole = {name: frames(store, name) for name in ("a.mp4", "b.mp4")}
    if damage == "missing":
        shard.unlink()
    else:
        shard.write_bytes(shard.read_bytes()[:-1])
    lost = FeatureStore(store).lost
    assert lost == (["a.mp4", "b.mp4"] if damage == "missing" else ["b.mp4"])
    with pytest.raises(StoreError, match="missing or cut off; run `videoclip cache` again"):
        frames(store, "b.mp4")
    assert len(verify(FeatureStore(store))) == len(lost)
    assert cache(videos, store, tiny).cached == len(lost)
    assert all(torch.equal(frames(store, name), whole[name]) for name in whole)
    assert FeatureStore(store).lost == [] and verify(FeatureStore(store)) == []


def test_push_refuses_another_store_and_compares_content(
    videos: Path, tmp_path: Path, tiny: OpenClip, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    address = f"file://{tmp_path}/pushed"
    cache(videos, tmp_path / "s", tiny, push_to=address)
    first = FeatureStore(address)
    assert first.ids == ["a.mp4", "b.mp4"]

    with pytest.raises(StoreError, match="holds a store of another recipe .*dtype: float32 / float16"):
        cache(videos, tmp_path / "other", tiny, dtype="float32", push_to=address)
    swapped = [Clip(id="a.mp4", path=videos / "b.mp4"), Clip(id="b.mp4", path=videos / "a.mp4")]
    with pytest.raises(StoreError, match="is of another store than"):  # the same recipe and the same sizes
        cache(swapped, tmp_path / "swapped", tiny, push_to=address)
    with pytest.raises(StoreError, match="neither empty nor a feature store"):
        cache(videos, tmp_path / "s", tiny, push_to=f"file://{videos}")

    shard = tmp_path / "pushed" / "clips-0000-00000.frames.npy"
    content = shard.read_bytes()
    shard.write_bytes(content[:-8] + bytes(8))  # damaged there, in the same size
    cache(videos, tmp_path / "s", tiny, push_to=address)
    assert shard.read_bytes() == content


def test_a_local_copy_notices_what_changed_at_the_address(
    videos: Path, tmp_path: Path, tiny: OpenClip, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    address = f"file://{tmp_path}/pushed"
    cache(videos, tmp_path / "s", tiny, push_to=address)
    before = FeatureStore(address)["a.mp4"].frames
    shutil.rmtree(tmp_path / "pushed")
    swapped = [Clip(id="a.mp4", path=videos / "b.mp4"), Clip(id="b.mp4", path=videos / "a.mp4")]
    cache(swapped, tmp_path / "swapped", tiny, push_to=address)
    after = FeatureStore(address)["a.mp4"].frames
    assert after.shape == before.shape and not torch.equal(before, after)


@pytest.mark.parametrize(
    ("arrays", "reason"),
    [
        ({"features": np.full((3, 4), np.nan)}, "row 0: nan"),
        ({"features": np.array([[0.0] * 4, [0, np.inf, 0, 0]])}, "row 1: inf"),
        ({"features": np.array([[0.0] * 4, [0, -1e5, 0, 0]])}, "row 1 has the value -100000, .*--dtype float32"),
        ({"features": np.zeros((3, 4), complex)}, "complex128, not real numbers"),
        ({"features": np.zeros((3, 4), "datetime64[s]")}, "not real numbers"),
        ({"features": np.full((3, 4), "x")}, "not real numbers"),
        ({"features": np.zeros((3, 4), bool)}, "not real numbers"),
        ({"features": np.zeros((3, 0))}, "no array"),
        ({"features": np.zeros((3, 4)), "seconds": np.arange(2.0)}, "3 frames, but 2 times"),
        ({"features": np.zeros((3, 4)), "seconds": np.arange(4.0)}, "3 frames, but 4 times"),
        ({"features": np.zeros((3, 4)), "seconds": np.array(["0", "1", "2"])}, "one number per frame"),
        ({"features": np.zeros((3, 4)), "seconds": np.array([0, np.nan, 2])}, "finite and ascending"),
        ({"features": np.zeros((3, 4)), "timestamps_ms": np.array([0, 9, 2])}, "finite and ascending"),
    ],
)
def test_features_that_are_no_finite_numbers_are_not_imported(
    tmp_path: Path, arrays: dict[str, np.ndarray], reason: str
) -> None:
    np.savez(tmp_path / "x.npz", **arrays)
    with pytest.raises(StoreError, match=rf"x\.npz: .*{reason}"):
        import_features(tmp_path / "x.npz", tmp_path / "s", "some model", fps=2.0)
    assert not (tmp_path / "s").exists()


def test_large_values_are_imported_as_float32(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.full((3, 4), 1e5))
    store = import_features(tmp_path / "x.npy", tmp_path / "s", "some model", fps=2.0, dtype="float32")
    assert store["x"].frames.tolist() == [[1e5] * 4] * 3
    with pytest.raises(StoreError, match="text 'a dog': has values that are not finite"):
        import_texts(tmp_path / "s", {"a dog": np.full(4, np.inf)})


def test_an_encoder_that_overflows_fails_its_clip_alone(videos: Path, tmp_path: Path, tiny: OpenClip) -> None:
    """What is beyond float16 is no number in the store: the clip is listed as failed and not found first."""
    import copy

    broken = copy.deepcopy(tiny)
    with torch.no_grad():
        for parameter in broken.parameters():
            parameter.mul_(1e3)
    done = cache(videos, tmp_path / "s", broken)
    assert (done.cached, done.failed) == (0, 2)
    assert "features that are not finite numbers" in FeatureStore(tmp_path / "s").failures[0].reason


def test_exit_statuses_of_cache(videos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--out", str(tmp_path / "s"), "--model", "tiny", "--fps", "5", "--workers", "0"]
    assert main(["cache", str(videos), *arguments]) == 0
    (videos / "page.mp4").write_text("<html>")
    assert main(["cache", str(videos), *arguments]) == 0
    assert "1 failed now" in capsys.readouterr().out
    assert main(["cache", str(videos), *arguments, "--strict"]) == 3
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "page.mp4").write_text("<html>")
    assert main(["cache", str(tmp_path / "bad"), *arguments]) == 1


def test_missing_files_are_one_line(tmp_path: Path, videos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{"path": "videos/a.mp4"}, *({"path": f"videos/missing{n}.mp4"} for n in range(50))]
    (tmp_path / "m.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    main(["cache", str(tmp_path / "m.jsonl"), "--out", str(tmp_path / "s"), "--model", "tiny", "--workers", "0"])
    out = capsys.readouterr().out
    assert "50 files are missing, such as" in out and "--drop-missing" in out
    assert sum(".mp4" in line for line in out.splitlines()) == 1


@pytest.mark.parametrize("name", ["hf-hub:someone/model", "/models/clip", "../clip"])
def test_a_store_does_not_choose_by_itself_what_is_loaded(
    videos: Path, tmp_path: Path, tiny: OpenClip, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    cache(videos, tmp_path / "s", tiny)
    description = tmp_path / "s" / "store.json"
    content = json.loads(description.read_text())
    content["backbone"]["name"] = name
    description.write_text(json.dumps(content))
    with pytest.raises(BackboneError, match=f"would load {name}, .*--trust"):
        FeatureStore(tmp_path / "s").open_backbone()
    assert main(["search", str(tmp_path / "s"), "a ring"]) == 1
    assert "--trust" in capsys.readouterr().err


def test_a_file_name_that_is_not_utf8_is_cached_like_any_other(tmp_path: Path, videos: Path, tiny: OpenClip) -> None:
    name = os.fsdecode(b"caf\xe9 \n.mp4")
    try:
        (videos / "a.mp4").rename(videos / name)
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    assert cache(videos, tmp_path / "s", tiny).cached == 2
    store = FeatureStore(tmp_path / "s")
    (odd,) = set(store.ids) - {"b.mp4"}
    odd.encode()  # an id that every format can hold
    assert os.path.exists(store.record(odd).notes["path"]) and store.vanished == []
    assert cache(videos, tmp_path / "s", tiny) == Summary(0, 2, 0, 0)
