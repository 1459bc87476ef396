"""The way of a model that is tuned inside its towers, from the command line: pixels, training, blending, merging."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.helpers.backbones import backbone_of
from videoclip.backbone import create_backbone
from videoclip.cli import main
from videoclip.convert import load_tuned
from videoclip.convert.tuned import TUNED
from videoclip.features import VideoPixels
from videoclip.model import load_model
from videoclip.store import FeatureStore

RECORDED = Path(__file__).parent / "golden" / "data"


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """Output of a command that must succeed."""
    code = main([str(a) for a in arguments])
    captured = capsys.readouterr()
    assert code == 0, captured.err
    return captured.out


def test_pixels_train_blend_merge_and_search(shapes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store, out = tmp_path / "pixels", tmp_path / "run"
    run(capsys, "cache", shapes, "--out", store, "--frames", 4, "--pixels", "jpeg", "--workers", 0)
    (tmp_path / "c.yaml").write_text(
        json.dumps(
            {
                "data": {"manifest": str(shapes), "store": str(store), "source": "videos"},
                "model": {"image_tuning": "partial", "text_tuning": "full", "frames": 4},
                "train": {"epochs": 1, "batch_size": 24, "precision": "fp32", "workers": 0, "tower_lr": 1e-4},
            }
        )
    )
    run(capsys, "train", tmp_path / "c.yaml", "--out", out)
    data = ["--manifest", shapes, "--split", "test"]
    tuned = json.loads(run(capsys, "evaluate", out, *data, "--store", store))
    from_files = json.loads(run(capsys, "evaluate", out, *data))
    assert from_files["store"] is None and tuned["store"] and from_files["videos"] == tuned["videos"] == 12
    run(capsys, "blend", "pretrained", out, "--alpha", 0.4, "--out", tmp_path / "blended")
    assert "backbone" in run(capsys, "merge", out, "--out", tmp_path / "merged")
    merged_store = tmp_path / "features"
    run(capsys, "cache", shapes, "--out", merged_store, "--frames", 4, "--model", tmp_path / "merged" / "backbone", "--workers", 0)  # fmt: skip
    merged = json.loads(run(capsys, "evaluate", tmp_path / "merged", *data, "--store", merged_store))
    assert merged["text_to_video/R@5"] == pytest.approx(tuned["text_to_video/R@5"], abs=9)  # a video of twelve
    run(capsys, "cache", shapes, "--out", tmp_path / "b", "--frames", 4, "--model", tmp_path / "blended" / "backbone", "--workers", 0)  # fmt: skip
    run(capsys, "evaluate", tmp_path / "blended", *data, "--store", tmp_path / "b")
    found = run(capsys, "search", merged_store, "a red circle", "-k", 2, "--checkpoint", tmp_path / "merged")
    assert len(found.splitlines()) == 2
    assert (
        FeatureStore(merged_store).recipe.backbone == create_backbone(str(tmp_path / "merged" / "backbone")).fingerprint
    )


@pytest.mark.parametrize(
    ("system", "case", "heads"), [("aim", "aim", 4), ("stan", "stan_branch", 4), ("vop", "vop_basic", 4)]
)
def test_a_checkpoint_of_the_authors_becomes_a_model(
    system: str, case: str, heads: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = load_file(RECORDED / case / "weights.safetensors")
    (tmp_path / "clip").mkdir()
    tuned = TUNED[system](weights)
    backbone = backbone_of(tmp_path / "clip", tuned.towers, heads, heads)
    save_file(weights, tmp_path / "theirs.safetensors")
    out = run(capsys, "convert", tmp_path / "theirs.safetensors", "--system", system, "--model", tmp_path / "clip", "--out", tmp_path / "ours")  # fmt: skip
    assert f"image tower {'full+' if system == 'stan' else ''}{system}" in out
    pixels = torch.randint(0, 256, (2, 3, 3, *backbone.preprocess.size), dtype=torch.uint8)
    video = VideoPixels(pixels, torch.ones(2, 3, dtype=torch.bool), torch.zeros(2, 3))
    expected = load_tuned(system, weights, backbone)
    with torch.no_grad():
        assert torch.equal(
            load_model(tmp_path / "ours").encode_video(video).frames, expected.encode_video(video).frames
        )
    del weights[next(name for name in weights if "Adapter" in name or "STAN" in name or "prompts" in name)]
    save_file(weights, tmp_path / "less.safetensors")
    code = main(["convert", str(tmp_path / "less.safetensors"), "--system", system, "--model", str(tmp_path / "clip"), "--out", str(tmp_path / "no")])  # fmt: skip
    error = capsys.readouterr().err
    assert code == 1 and system in error and ("missing" in error or "has no" in error)


def test_a_checkpoint_without_the_tuning_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_file({"a": torch.zeros(1)}, tmp_path / "a.safetensors")
    for system in ("st_adapter", "m2clip", "vop", "evl", "stan", "xclip_videox", "clip4clip_3d", "ts2net"):
        code = main(["convert", str(tmp_path / "a.safetensors"), "--system", system, "--model", "tiny", "--out", str(tmp_path / "no")])  # fmt: skip
        error = capsys.readouterr().err
        assert code == 1 and f"The {system} checkpoint has no" in error, (system, error)


def test_a_tuned_system_asks_for_its_clip(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_file({"a": torch.zeros(1)}, tmp_path / "a.safetensors")
    code = main(["convert", str(tmp_path / "a.safetensors"), "--system", "aim", "--out", str(tmp_path / "no")])
    assert code == 1 and "name it by --model" in capsys.readouterr().err
