"""Stores in and out: checksums, merging, export, import of real features."""

from __future__ import annotations

import io
import json
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from videoclip.backbone.openclip import OpenClip
from videoclip.cli import main
from videoclip.data.manifest import Clip, read_manifest
from videoclip.errors import StoreError
from videoclip.store import FeatureStore
from videoclip.store.extract import Extras, cache_features
from videoclip.store.transfer import export_npy, export_webdataset, import_features, import_texts, merge, verify
from videoclip.video.clip import FrameChoice
from videoclip.video.preprocess import Preprocess


def test_verify_finds_a_flipped_byte(shapes_store: FeatureStore, tmp_path: Path) -> None:
    shutil.copytree(shapes_store.folder, tmp_path / "s")
    assert verify(FeatureStore(tmp_path / "s")) == [] and main(["store", "verify", str(tmp_path / "s")]) == 0
    rows = tmp_path / "s" / "clips-0000-00000.frames.npy"
    content = bytearray(rows.read_bytes())
    content[128 + 256 * 12 + 5] ^= 1  # in the second clip
    rows.write_bytes(content)
    (problem,) = verify(FeatureStore(tmp_path / "s"))
    assert repr(shapes_store.ids[1]) in problem and str(rows) in problem
    assert main(["store", "verify", str(tmp_path / "s")]) == 1
    with pytest.raises(StoreError, match="are damaged; `videoclip store merge --skip-damaged`"):
        merge([FeatureStore(tmp_path / "s")], tmp_path / "m")
    command = ["store", "merge", str(tmp_path / "s"), "--out", str(tmp_path / "n"), "--skip-damaged"]
    assert main(command) == 0
    assert set(shapes_store.ids) - set(FeatureStore(tmp_path / "n").ids) == {shapes_store.ids[1]}


def test_merge_is_the_union(shapes: Path, tiny: OpenClip, tmp_path: Path) -> None:
    clips, choice = read_manifest(shapes)[:9], FrameChoice(frames=4)
    parts = {"a": clips[:5], "b": clips[3:], "whole": clips}
    for name, part in parts.items():
        cache_features(part, tmp_path / name, tiny, choice, workers=0)
    a, b, whole = (FeatureStore(tmp_path / name) for name in parts)
    merged = merge([a, b], tmp_path / "m")
    assert merged.ids == whole.ids and merged.captions == whole.captions and verify(merged) == []
    for clip_id in whole.ids:
        assert torch.equal(merged[clip_id].frames, whole[clip_id].frames)
        assert torch.equal(merged[clip_id].seconds, whole[clip_id].seconds)
        assert merged[clip_id].notes == whole[clip_id].notes
    caption = clips[0].captions[0]
    assert torch.equal(merged.text([caption]).sentence, whole.text([caption]).sentence)
    cache_features(clips, tmp_path / "c", tiny, FrameChoice(frames=5), workers=0)
    with pytest.raises(StoreError, match="frames: 4 / 5"):
        merge([a, FeatureStore(tmp_path / "c")], tmp_path / "n")
    swapped = [Clip(id=clips[0].id, path=clips[1].path)]
    cache_features(swapped, tmp_path / "d", tiny, choice, workers=0)
    with pytest.raises(StoreError, match="was made from another file or stretch"):
        merge([a, FeatureStore(tmp_path / "d")], tmp_path / "o")


def test_export_and_import_again(shapes_store: FeatureStore, tmp_path: Path) -> None:
    import pyarrow.parquet
    import webdataset

    export_npy(shapes_store, tmp_path / "npy")
    frames = np.load(tmp_path / "npy" / "frames.npy", mmap_mode="r")
    table = pyarrow.parquet.read_table(tmp_path / "npy" / "clips.parquet").to_pylist()
    assert [row["id"] for row in table] == shapes_store.ids
    for row in table:
        stored = shapes_store[row["id"]]
        assert np.array_equal(frames[row["row"] : row["row"] + row["rows"]], stored.frames.numpy())
        assert row["seconds"] == stored.seconds.tolist() and row["sha256"] == stored.notes["sha256"]
    export_webdataset(shapes_store, tmp_path / "wds", clips_a_shard=20)
    tars = sorted(str(path) for path in (tmp_path / "wds").glob("*.tar"))
    assert len(tars) == 3
    samples = list(webdataset.WebDataset(tars, shardshuffle=False).decode())
    assert [s["json"]["id"] for s in samples] == shapes_store.ids
    assert all(np.array_equal(s["frames.npy"], shapes_store[s["json"]["id"]].frames.numpy()) for s in samples)


def test_clip_video_encode_folders_and_tars(tmp_path: Path) -> None:
    """Its files as its writer lays them out: KEY.npy, KEY.json, KEY.txt, loose or in tars."""
    rng = np.random.default_rng(0)
    arrays = {f"video{i}": rng.normal(size=(3 + i, 8)).astype(np.float32) for i in range(4)}
    loose = tmp_path / "loose"
    loose.mkdir()
    with tarfile.open(loose / "00000_clip_embeddings.tar", "w") as archive:
        for name, array in arrays.items():
            buffer = io.BytesIO()
            np.save(buffer, array)
            parts = {f"{name}.npy": buffer.getvalue(), f"{name}.json": b"{}", f"{name}.txt": b"a caption"}
            for member, content in parts.items():
                if name == "video3":
                    (loose / member).write_bytes(content)
                    continue
                header = tarfile.TarInfo(member)
                header.size = len(content)
                archive.addfile(header, io.BytesIO(content))
    store = import_features(loose, tmp_path / "s", "cve ViT-B-32", fps=2.0)
    assert sorted(store.ids) == sorted(arrays) and store.recipe.backbone == "imported:cve ViT-B-32"
    for name, array in arrays.items():
        assert np.array_equal(store[name].frames.numpy(), array.astype(np.float16))
        assert store[name].seconds.tolist() == [i / 2 for i in range(len(array))]
    with pytest.raises(StoreError, match="contains no timestamps; pass --fps"):
        import_features(loose, tmp_path / "t", "x")
    shutil.copy(loose / "video3.npy", loose / "video1.npy")
    with pytest.raises(StoreError, match="there was a 'video1' before; ids must be unique"):
        import_features(loose, tmp_path / "u", "x", fps=2.0)


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros(4), "contains no array"),
        (np.zeros((0, 4)), "contains no array"),
        (np.array([{"a": 1}], object), "is not an array of numbers"),
    ],
)
def test_what_is_no_feature_array_is_refused(tmp_path: Path, array: np.ndarray, message: str) -> None:
    np.save(tmp_path / "a.npy", array, allow_pickle=True)
    with pytest.raises(StoreError, match=message):
        import_features(tmp_path / "a.npy", tmp_path / "s", "x", fps=1.0)


def test_real_features_rank_the_barbell_first(shared: Path, tmp_path: Path) -> None:
    """Recorded OpenAI ViT-B/32 features of a weightlifter's video against 1,203 recorded class names."""
    features = shared / "features"
    source = features / "v_GGSY1Qvo990_clip_vit_b32_5fps.npz"
    code = main(["store", "import", str(source), "--out", str(tmp_path / "s"), "--backbone", "OpenAI ViT-B/32"])
    assert code == 0
    names = json.loads((features / "text_lvis1203_vit_b32.names.json").read_text())
    import_texts(tmp_path / "s", zip(names, np.load(features / "text_lvis1203_vit_b32.npy"), strict=True))
    store = FeatureStore(tmp_path / "s")
    assert store.ids == ["v_GGSY1Qvo990_clip_vit_b32_5fps"] and len(store.captions) == len(names) == 1203
    recorded = np.load(source)
    clip = store[store.ids[0]]
    assert np.allclose(clip.frames.float().numpy(), recorded["features"], atol=2e-3)
    assert np.allclose(clip.seconds.numpy(), recorded["timestamps_ms"] / 1000, atol=1e-6)
    frames, texts = store.features(store.ids).frames[0], store.text(names).sentence
    scores = (F.normalize(texts, dim=-1) @ F.normalize(frames, dim=-1).T).mean(-1)
    best = scores.argsort(descending=True)[:5].tolist()
    assert [names[i] for i in best] == ["barbell", "mat_(gym_equipment)", "dumbbell", "clip", "power_shovel"]
    assert scores[best[0]].item() == pytest.approx(0.2999, abs=2e-4)


def test_photographs_are_prepared_as_recorded(shared: Path) -> None:
    """The recorded input of the image tower: to the bit with ``pillow``, within one grey level with ``fast``."""
    recorded = np.load(shared / "features" / "clip_reference_images.npz")
    assert len(recorded["names"]) == 4
    for name, expected in zip(recorded["names"], recorded["image_tensor"], strict=True):
        picture = np.array(Image.open(shared / "features" / "clip_reference_images" / f"{name}.jpg").convert("RGB"))
        exact, fast = (Preprocess(resize=way) for way in ("pillow", "fast"))  # type: ignore[arg-type]
        assert np.abs(exact.normalize(exact(picture[None]))[0].numpy() - expected).max() < 1e-5
        difference = np.abs(fast.normalize(fast(picture[None]))[0].numpy() - expected)
        assert difference.max() < 1.01 / 255 / min(fast.std) and (difference < 1e-5).mean() > 0.99


def test_extra_tensors_come_along(shapes: Path, tiny: OpenClip, tmp_path: Path) -> None:
    clips = read_manifest(shapes)[:3]
    extras = Extras(patches=True, words=True, crops=True)
    for name, part in (("a", clips[:2]), ("b", clips[1:])):
        cache_features(part, tmp_path / name, tiny, FrameChoice(frames=3), extras=extras, workers=0)
    merged = merge([FeatureStore(tmp_path / "a"), FeatureStore(tmp_path / "b")], tmp_path / "m")
    assert verify(merged) == []
    patches, views = merged[clips[2].id].patches, merged[clips[2].id].views
    assert patches is not None and patches.shape == (3, 64, 128) and views is not None and views.shape == (3, 3, 128)
    export_npy(merged, tmp_path / "npy")
    assert np.load(tmp_path / "npy" / "patches.npy").shape == (9, 64, 128)
