"""Classifier files from elsewhere: damaged, of another structure, or naming a model of their author's choice."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from videoclip.backbone.openclip import OpenClip
from videoclip.classify.bench import Fit, _read_fits
from videoclip.classify.evaluate import predict_files
from videoclip.classify.head import load_head
from videoclip.classify.reader import plain_model
from videoclip.cli import main
from videoclip.data.manifest import read_manifest
from videoclip.errors import BackboneError, CheckpointError, DataError
from videoclip.store import FeatureStore

GOOD: dict[str, Any] = {
    "format": "videoclip classifier 1",
    "method": {"name": "zero_shot", "options": {}},
    "classes": {"name": "two", "labels": ["a", "b"], "phrases": ["a", "b"]},
    "backbone": {"name": "tiny", "pretrained": None, "fingerprint": "0"},
    "frames": 2,
    "checkpoint": None,
    "sentences": {"name": "video", "fingerprint": "0"},
    "fitted_on": {"support": [], "validation": [], "unlabelled": [], "seed": 0},
}


def write(path: Path, about: object, tensors: dict[str, torch.Tensor] | None = None) -> Path:
    save_file(
        tensors or {"weights": torch.zeros(2, 4), "scale": torch.ones(())}, path, {"videoclip": json.dumps(about)}
    )
    return path


def test_a_whole_one_is_read(tmp_path: Path) -> None:
    assert load_head(write(tmp_path / "head", GOOD)).classes.labels == ("a", "b")


@pytest.mark.parametrize("value", [None, 3, -1, "x", [], {}, [None], {"name": 3}, float("nan")], ids=str)
@pytest.mark.parametrize("key", [key for key in GOOD if key not in ("fitted_on", "sentences", "checkpoint")])
def test_every_part_of_another_structure(tmp_path: Path, key: str, value: object) -> None:
    if (key, value) == ("frames", 3) or (key, value) == ("method", "x"):
        value = "elsewhere"
    with pytest.raises(CheckpointError, match="head") as caught:
        load_head(write(tmp_path / "head", GOOD | {key: value}))
    assert str(caught.value).count("\n") < 3


@pytest.mark.parametrize("about", [[], 3, "x", None, {}, {"format": [1]}, {"format": GOOD["format"]}], ids=str)
def test_metadata_of_another_structure(tmp_path: Path, about: object) -> None:
    with pytest.raises(CheckpointError, match="head"):
        load_head(write(tmp_path / "head", about))


@pytest.mark.parametrize("metadata", ["{", "[" * 9000, "\x00", ""])
def test_metadata_that_is_no_json(tmp_path: Path, metadata: str) -> None:
    save_file({"weights": torch.zeros(2, 4)}, tmp_path / "head", {"videoclip": metadata})
    with pytest.raises(CheckpointError, match="head"):
        load_head(tmp_path / "head")


@pytest.mark.parametrize(
    "tensors",
    [
        {"other": torch.zeros(1)},
        {"weights": torch.zeros(3, 64), "scale": torch.ones(())},
        {"weights": torch.zeros(2, 3), "scale": torch.ones(())},
        {"weights": torch.full((2, 64), torch.nan), "scale": torch.ones(())},
        {"weights": torch.zeros(2, 64), "scale": torch.tensor(torch.inf)},
    ],
    ids=["missing", "more classes", "narrow", "nan", "infinite"],
)
def test_tensors_that_do_not_fit(
    tensors: dict[str, torch.Tensor], shapes: Path, tiny: OpenClip, tmp_path: Path
) -> None:
    about = GOOD | {"backbone": {"name": "tiny", "pretrained": None, "fingerprint": tiny.fingerprint}}
    film = Path(read_manifest(shapes)[0].path)
    with pytest.raises(CheckpointError, match="head: is "):
        predict_files(load_head(write(tmp_path / "head", about, tensors)), [film])


@pytest.mark.parametrize(
    "named",
    [
        {"backbone": {"name": "hf-hub:some/model", "pretrained": None, "fingerprint": "0"}},
        {"backbone": {"name": "ViT-B-32", "pretrained": "/some/weights.pt", "fingerprint": "0"}},
        {"checkpoint": {"folder": "/some/run", "weights": "0"}},
    ],
    ids=str,
)
def test_what_its_author_chose_is_loaded_only_with_trust(
    named: dict[str, Any], tiny: OpenClip, shapes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    about = GOOD | {"backbone": {"name": "tiny", "pretrained": None, "fingerprint": tiny.fingerprint}} | named
    head = write(tmp_path / "head", about)
    line = ["classify", "predict", read_manifest(shapes)[0].path, "--head", head]
    assert main(list(map(str, line))) == 1
    assert "head would load" in (first := capsys.readouterr().err) and "Add --trust" in first
    if "hf-hub" not in str(named):  # which would be looked for on the net
        assert main([*map(str, line), "--trust"]) == 1
        assert "would load" not in capsys.readouterr().err


def test_a_store_that_names_a_folder_is_not_loaded_without_trust(shapes_store: FeatureStore, tmp_path: Path) -> None:
    store = shutil.copytree(shapes_store.folder, tmp_path / "store")
    about = json.loads((store / "store.json").read_text())
    (store / "store.json").write_text(json.dumps(about | {"backbone": {"name": str(tmp_path), "pretrained": None}}))
    with pytest.raises(BackboneError, match=r"would load .* Add --trust"):
        plain_model(FeatureStore(store))


FIT = Fit("k", "gda", 1, 0, {"a": "b"}, None, 0.1, {}, None).__dict__


@pytest.mark.parametrize(
    "content",
    [b"{}\n", b"[1]\n", b"caf\xe9\n", b"\x89PNG\n", json.dumps(FIT | {"predicted": 3}).encode() + b"\n", b"{\n{}\n"],
)
def test_fits_of_another_kind(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "fits.jsonl").write_bytes(content)
    with pytest.raises(DataError, match=r"fits\.jsonl"):
        _read_fits(tmp_path / "fits.jsonl")


def test_a_fit_that_a_kill_cut_off_is_dropped(tmp_path: Path) -> None:
    line = json.dumps(FIT) + "\n"
    (tmp_path / "fits.jsonl").write_text(line + line[:20])
    assert _read_fits(tmp_path / "fits.jsonl") == [Fit(**FIT)]
    assert (tmp_path / "fits.jsonl").read_text() == line
