from __future__ import annotations

from pathlib import Path

import pytest
import torch
import yaml

import videoclip as vc
from videoclip.backbone.openclip import OpenClip
from videoclip.errors import CheckpointError, ConfigError, StoreError
from videoclip.model import create_model, load_model
from videoclip.store import FeatureStore


@pytest.fixture
def model(tiny: OpenClip) -> vc.VideoTextModel:
    return create_model(tiny, temporal="lstm", similarity="query_scoring").eval()


def test_files_features_and_store_score_alike(
    model: vc.VideoTextModel, shapes: Path, shapes_store: FeatureStore
) -> None:
    texts = ["a small red circle grows", "a large ring"]
    ids = shapes_store.ids[:3]
    files = [shapes.parent / f"{i}.mp4" for i in ids]
    live = model.score(texts, files)
    cached = model.score(texts, shapes_store.features(ids, 12))
    assert live.shape == (2, 3) and not live.requires_grad
    torch.testing.assert_close(live, cached, atol=2e-3, rtol=0)  # the store holds half precision
    torch.testing.assert_close(model.score(texts, shapes_store)[:, :3], cached, atol=1e-5, rtol=0)


def test_save_load_equal(model: vc.VideoTextModel, shapes_store: FeatureStore, tmp_path: Path) -> None:
    model.save(tmp_path)
    again = load_model(tmp_path)
    texts = ["a red circle"]
    assert torch.equal(again.score(texts, shapes_store), model.score(texts, shapes_store))
    assert not again.training and again.config == model.config


def test_a_checkpoint_holds_only_what_was_trained(model: vc.VideoTextModel, tmp_path: Path) -> None:
    assert not any(name.startswith("backbone.") for name in model.trained())
    tuned = create_model("tiny", text_tuning="full")
    names = set(tuned.trained())
    assert any("token_embedding" in name for name in names) and not any("visual" in name for name in names)
    tuned.save(tmp_path)
    with torch.no_grad():
        tuned.backbone.text_tower.ln_final.weight.mul_(2)  # type: ignore[union-attr, operator]
    tuned.save(tmp_path / "changed")
    texts = ["a red circle", "a ring"]
    assert not torch.equal(load_model(tmp_path).encode_text(texts).sentence, tuned.encode_text(texts).sentence)
    assert torch.equal(load_model(tmp_path / "changed").encode_text(texts).sentence, tuned.encode_text(texts).sentence)


def test_another_backbone_is_refused_with_both_fingerprints(
    model: vc.VideoTextModel, tiny: OpenClip, tmp_path: Path
) -> None:
    model.save(tmp_path)
    config = yaml.safe_load((tmp_path / "config.yaml").read_text())
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config | {"fingerprint": "0123456789abcdef"}))
    with pytest.raises(CheckpointError, match=f"0123456789abcdef.*{tiny.fingerprint}"):
        load_model(tmp_path)


def test_foreign_weights_are_listed_and_refused(model: vc.VideoTextModel, tmp_path: Path) -> None:
    model.save(tmp_path)
    config = (tmp_path / "config.yaml").read_text().replace("lstm", "transformer")
    (tmp_path / "config.yaml").write_text(config)
    with pytest.raises(CheckpointError, match="missing temporal.positions.weight.* and .* more"):
        load_model(tmp_path)
    with pytest.raises(CheckpointError, match="is not a checkpoint"):
        load_model(tmp_path / "absent")


def test_wrong_names_and_options_are_refused(tiny: OpenClip) -> None:
    with pytest.raises(ConfigError, match="did you mean 'lstm'"):
        create_model(tiny, temporal="lsmt")
    with pytest.raises(ConfigError, match="did you mean 'layers'"):
        create_model(tiny, temporal=vc.Component(name="transformer", options={"layer": 2}))


def test_a_store_of_another_backbone_is_refused(model: vc.VideoTextModel, shapes_store: FeatureStore) -> None:
    other = create_model("tiny")
    other.backbone.fingerprint = "another"  # type: ignore[union-attr]
    with pytest.raises(StoreError, match="must not mix"):
        other.score(["a"], shapes_store)
    with pytest.raises(StoreError, match="must not mix"):
        vc.search(shapes_store, "a", model=other)


def test_half_the_public_names_are_lists() -> None:
    assert {"difference", "lstm", "none", "transformer"} <= set(vc.list_temporal())
    assert {"max_frame", "mean", "query_scoring"} <= set(vc.list_similarity())
    assert {"full", "lora", "none", "st_adapter", "vop"} <= set(vc.list_tuning())
    assert all(hasattr(vc, name) for name in vc.__all__)
    with pytest.raises(AttributeError):
        _ = vc.nothing
