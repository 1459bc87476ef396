"""The loop on real decoded videos: it learns, resumes to the last digit, and does the same on two processes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from videoclip.backbone.openclip import OpenClip
from videoclip.config import RunConfig, dump, load_config
from videoclip.errors import CheckpointError, ConfigError, DataError
from videoclip.model import load_model
from videoclip.store import FeatureStore
from videoclip.training.loop import train
from videoclip.training.optimizer import schedule

TRAIN = Path(__file__).parents[2] / "tools" / "train.py"


@pytest.fixture(scope="module")
def config(shapes: Path, shapes_store: FeatureStore) -> RunConfig:
    """A run of 3 epochs with 3 steps of 24 pairs, text tower tuned, on an LSTM."""
    values = {
        "data": {"manifest": shapes, "store": shapes_store.folder, "test": ["test", "novel"], "sampling": "random"},
        "model": {"temporal": {"name": "lstm"}, "text_tuning": {"name": "full"}, "frames": 6},
        "train": {"epochs": 3, "batch_size": 24, "lr": 1e-3, "tower_lr": 1e-3, "checkpoint_steps": 1, "seed": 3},
    }
    return RunConfig.model_validate(values)


def with_values(config: RunConfig, folder: Path, *overrides: str) -> RunConfig:
    (folder / "given.yaml").write_text(dump(config))
    return load_config(folder / "given.yaml", overrides)


def losses(run: Path) -> list[float]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [line["loss"] for line in lines if "loss" in line]


@pytest.fixture(scope="module")
def uninterrupted(config: RunConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("run") / "whole"
    train(config, out)
    return out


def test_it_learns_and_leaves_a_whole_run(uninterrupted: Path, config: RunConfig, shapes_store: FeatureStore) -> None:
    found = losses(uninterrupted)
    assert len(found) == 9 and sum(found[-3:]) < sum(found[:3])
    report = json.loads((uninterrupted / "report.json").read_text())
    assert set(report["test"]) == {"test", "novel"} and report["selected_by"] == "val text_to_video/R@1"
    assert report["test"]["test"]["texts"] == report["test"]["test"]["videos"] == 12
    assert load_config(uninterrupted / "config.yaml") == config
    environment = json.loads((uninterrupted / "environment.json").read_text())
    assert environment["store"] == shapes_store.fingerprint and "torch" in environment["packages"]
    model = load_model(uninterrupted)
    assert sum(p.numel() for p in model.temporal.parameters()) < report["parameters"]


def test_the_best_epoch_is_the_one_that_validated_best(uninterrupted: Path) -> None:
    lines = [json.loads(line) for line in (uninterrupted / "metrics.jsonl").read_text().splitlines()]
    values = [line["val/text_to_video/R@1"] for line in lines if "val/text_to_video/R@1" in line]
    report = json.loads((uninterrupted / "report.json").read_text())
    assert len(values) == 3 and report["best_value"] == max(values)
    assert report["best_epoch"] == values.index(max(values))


def test_only_what_is_declared_changes(uninterrupted: Path, tiny: OpenClip) -> None:
    trained = load_model(uninterrupted).backbone
    assert trained is not None
    pixels = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    with torch.inference_mode():
        assert torch.equal(trained.encode_image(pixels), tiny.encode_image(pixels))
        tokens = tiny.tokenize(["a red circle grows"])
        assert not torch.equal(trained.encode_text(tokens).sentence, tiny.encode_text(tokens).sentence)


def test_kill_nine_and_resume_gives_the_same_to_the_last_digit(
    config: RunConfig, uninterrupted: Path, tmp_path: Path
) -> None:
    (tmp_path / "c.yaml").write_text(dump(config))
    out = tmp_path / "run"
    command = [sys.executable, str(TRAIN), str(tmp_path / "c.yaml"), "--out", str(out)]
    process = subprocess.Popen(command, start_new_session=True, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        if (out / "metrics.jsonl").exists() and len(losses_so_far(out)) >= 4:
            break
        time.sleep(0.01)
    assert process.poll() is None, "the run ended before it could be killed"
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert not (out / "report.json").exists()
    with pytest.raises(CheckpointError, match="add --resume"):
        train(config, out)
    subprocess.run([*command, "--resume"], check=True, stdout=subprocess.DEVNULL)
    assert losses(out) == losses(uninterrupted)
    mine, whole = (json.loads((run / "report.json").read_text()) for run in (out, uninterrupted))
    assert mine["test"] == whole["test"]


def losses_so_far(run: Path) -> list[str]:
    return [line for line in (run / "metrics.jsonl").read_text().splitlines() if '"loss"' in line]


def test_resuming_another_config_is_refused(config: RunConfig, uninterrupted: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="another config"):
        train(with_values(config, tmp_path, "train.lr=0.5"), uninterrupted, resume=True)


def test_a_finished_run_is_not_done_again(config: RunConfig, uninterrupted: Path) -> None:
    before = losses(uninterrupted)
    report = train(config, uninterrupted)
    assert report is not None and losses(uninterrupted) == before
    assert report["test"] == json.loads((uninterrupted / "report.json").read_text())["test"]


def test_two_processes_give_the_losses_of_one(config: RunConfig, uninterrupted: Path, tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text(dump(config))
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--standalone"]
    command = [*launch, str(TRAIN), str(tmp_path / "c.yaml"), "--out", str(tmp_path / "run")]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert losses(tmp_path / "run") == pytest.approx(losses(uninterrupted), rel=2e-3)
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    assert report["test"]["test"]["texts"] == 12


def test_cached_texts_and_accumulation(config: RunConfig, tmp_path: Path) -> None:
    """With a frozen text tower nothing but the store is read; two half batches are one step."""
    overrides = ["model.text_tuning=none", "train.accumulation=2", "train.epochs=1", "model.similarity=query_scoring"]
    overrides.append("train.precision=bf16")
    report = train(with_values(config, tmp_path, *overrides), tmp_path / "run")
    assert report is not None and len(losses(tmp_path / "run")) == 3
    weights = load_model(tmp_path / "run").trained()
    assert not any(name.startswith("backbone.") for name in weights)


@pytest.mark.parametrize(
    ("override", "error", "message"),
    [
        ("train.batch_size=1000", DataError, "more than the 72 training pairs"),
        ("train.accumulation=7", DataError, "multiple of accumulation"),
        ("train.precision=fp16", DataError, "fp16 needs a GPU"),
        ("data.test=[absent]", DataError, "no clip with captions in split 'absent'"),
        ("data.manifest=nowhere.jsonl", DataError, "no such manifest"),
        ("data.validation=test", ConfigError, "must not see the test"),
    ],
)
def test_mistakes_are_told_before_training(
    config: RunConfig, tmp_path: Path, override: str, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        train(with_values(config, tmp_path, override), tmp_path / "run")


def test_missing_clips_are_counted(config: RunConfig, shapes: Path, tmp_path: Path) -> None:
    lines = shapes.read_text().splitlines()
    extra = lines[0].replace("train/0000", "train/absent")
    manifest = shapes.parent / "more.jsonl"
    manifest.write_text("\n".join([*lines, extra]))
    with pytest.raises(DataError, match=r"1 of 25 clips are not in the store.*absent.*allow_missing=true"):
        train(with_values(config, tmp_path, f"data.manifest={manifest}"), tmp_path / "run")
    report = train(
        with_values(config, tmp_path, f"data.manifest={manifest}", "data.allow_missing=true", "train.epochs=1"),
        tmp_path / "run",
    )
    assert report is not None


def test_the_schedule_rises_and_falls() -> None:
    shares = [schedule(step, 100, 0.1) for step in range(100)]
    assert shares[0] == 0.1 and max(shares) == shares[9] == shares[10] == 1.0
    assert shares[10:] == sorted(shares[10:], reverse=True) and shares[-1] < 0.001
    assert schedule(0, 1, 0.0) == 1.0
