"""The probe on models whose use of time is known beforehand."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from PIL import Image

from videoclip.cli import main
from videoclip.compare.probe import _orders, probe
from videoclip.config import Component
from videoclip.data.manifest import Clip, of_split, read_manifest
from videoclip.errors import DataError
from videoclip.features import VideoFeatures
from videoclip.model import create_model
from videoclip.store import FeatureStore


@pytest.fixture(scope="module")
def clips(shapes: Path) -> list[Clip]:
    return of_split(read_manifest(shapes), "test", shapes)


def test_the_mean_is_unmoved_and_an_lstm_is_moved(shapes_store: FeatureStore, clips: list[Clip]) -> None:
    torch.manual_seed(0)
    mean, lstm = (probe(create_model(temporal=t, frames=6).eval(), shapes_store, clips) for t in ("none", "lstm"))
    for order in ("reversed", "shuffled"):
        assert mean["orders"][order]["change"] < 1e-3
        assert lstm["orders"][order]["change"] > 0.1
        assert mean["orders"][order]["moved"] == [0, 0]
    assert mean["orders"]["one repeated"]["change"] > 1
    assert list(mean["budgets"]) == ["1", "2", "4", "8", "16"] and mean["frames"] == 6


def test_one_frame_knows_no_order(shapes_store: FeatureStore, clips: list[Clip]) -> None:
    found = probe(create_model(temporal="transformer", frames=1).eval(), shapes_store, clips)
    assert all(row["change"] == 0 for row in found["orders"].values())


def test_orders_move_real_frames_alone() -> None:
    frames = torch.arange(10.0).view(2, 5, 1)
    video = VideoFeatures.from_frames(frames, torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]]))
    for name, change in _orders(0).items():
        changed = change(video)
        assert torch.equal(changed.mask, video.mask), name
        real = [changed.frames[b][video.mask[b]].flatten().tolist() for b in range(2)]
        plain = [frames[b][video.mask[b]].flatten().tolist() for b in range(2)]
        if name == "one repeated":
            assert real == [[1.0] * 3, [7.0] * 5]
        else:
            assert [sorted(r) for r in real] == plain
        if name == "reversed":
            assert real == [p[::-1] for p in plain]


def test_the_command_leaves_table_and_plot(shapes: Path, shapes_store: FeatureStore, tmp_path: Path) -> None:
    create_model(temporal="lstm", frames=6).save(tmp_path / "model")
    out = tmp_path / "probe"
    command = ["probe", str(tmp_path / "model"), "--manifest", str(shapes), "--store", str(shapes_store.folder)]
    assert main([*command, "--out", str(out)]) == 1  # which split?
    assert main([*command, "--split", "test", "--out", str(out)]) == 0
    assert set(json.loads((out / "probe.json").read_text())) == {"model"}
    assert "| model |" in (out / "probe.md").read_text()
    assert Image.open(out / "probe.png").size[0] > 1000


def test_a_context_model_has_no_frames_to_probe(shapes_store: FeatureStore, clips: list[Clip]) -> None:
    model = create_model(temporal=Component(name="context", options={"heads": 4}), frames=6)
    model.config = model.config.model_copy(update={"context": 2})
    with pytest.raises(DataError, match="neighbouring clips"):
        probe(model, shapes_store, clips)
