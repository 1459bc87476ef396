"""The loop on real decoded videos: it learns, resumes to the last digit, and does the same on two processes."""

from __future__ import annotations

import itertools
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests.helpers.training import losses
from tests.helpers.two_processes import OfTwo
from videoclip.backbone.openclip import OpenClip
from videoclip.compare.seeds import train_seeds
from videoclip.config import RunConfig, dump, load_config
from videoclip.data.manifest import Clip, read_manifest, write_manifest
from videoclip.errors import CheckpointError, ConfigError, DataError
from videoclip.model import load_model
from videoclip.store import FeatureStore
from videoclip.synthetic.moving_shapes import Counts, write_moving_shapes
from videoclip.training.loop import train
from videoclip.training.optimizer import schedule
from videoclip.training.splits import Splits, hold_out

TRAIN = Path(__file__).parents[2] / "tools" / "train.py"


def config_of(shapes: Path, shapes_store: FeatureStore) -> RunConfig:
    """Return a run of 3 epochs with 3 steps of 24 pairs, text tower tuned, on an LSTM."""
    values = {
        "data": {"manifest": shapes, "store": shapes_store.folder, "test": ["test", "novel"], "sampling": "random"},
        "model": {"temporal": {"name": "lstm"}, "text_tuning": {"name": "full"}, "frames": 6},
        "train": {"epochs": 3, "batch_size": 24, "lr": 1e-3, "tower_lr": 1e-3, "checkpoint_steps": 1, "seed": 3},
    }
    return RunConfig.model_validate(values)


@pytest.fixture(scope="module")
def config(shapes: Path, shapes_store: FeatureStore) -> RunConfig:
    return config_of(shapes, shapes_store)


def with_values(config: RunConfig, folder: Path, *overrides: str) -> RunConfig:
    (folder / "given.yaml").write_text(dump(config))
    return load_config(folder / "given.yaml", overrides)


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
    assert set(environment["git"]) == {"commit", "changed"} and environment["processes"] == 1
    ranks = json.loads((uninterrupted / "test.ranks.json").read_text())
    assert len(ranks["text_to_video"]["ranks"]) == len(ranks["video_to_text"]["queries"]) == 12
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


@pytest.mark.slow
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


@pytest.mark.slow
def test_killed_three_times_and_resumed_on_other_numbers_of_processes(
    config: RunConfig, uninterrupted: Path, tmp_path: Path
) -> None:
    """One, two, one, two processes: order of data, frames and weights are those of the run that was never stopped."""
    (tmp_path / "c.yaml").write_text(dump(config))
    out, done = tmp_path / "run", 0
    drawn = random.Random(0)
    for processes in (1, 2, 1):
        stop = drawn.randint(done + 1, done + 2)
        command = launched(processes, str(tmp_path / "c.yaml"), "--out", str(out), *(["--resume"] if done else []))
        process = subprocess.Popen(command, start_new_session=True, stdout=subprocess.DEVNULL, env=ONE_THREAD)
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline and not (
            (out / "metrics.jsonl").exists() and len(losses_so_far(out)) >= stop
        ):
            time.sleep(0.005)
        assert process.poll() is None, "the run ended before it could be killed"
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        done = len(losses_so_far(out))
        assert stop <= done < 9
    last = launched(2, str(tmp_path / "c.yaml"), "--out", str(out), "--resume")
    subprocess.run(last, check=True, stdout=subprocess.DEVNULL, env=ONE_THREAD)
    assert losses(out) == pytest.approx(losses(uninterrupted), rel=2e-4)
    found, expected = (torch.load(run / "state.pt", weights_only=True)["model"] for run in (out, uninterrupted))
    assert found.keys() == expected.keys()
    moved = {
        name: (found[name] - tensor).norm() / tensor.norm() for name, tensor in expected.items() if tensor.norm() > 0
    }
    assert max(moved.values()) < 1e-3, max(moved, key=lambda name: float(moved[name]))


ONE_THREAD = {**os.environ, "OMP_NUM_THREADS": "1"}


def launched(processes: int, *arguments: str) -> list[str]:
    """The command of so many processes on this machine."""
    launch = (
        ["-m", "torch.distributed.run", "--nproc_per_node", str(processes), "--standalone"] if processes > 1 else []
    )
    return [sys.executable, *launch, str(TRAIN), *arguments]


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


def one_of_two(rank: int, config: RunConfig, out: Path) -> dict[str, dict[str, torch.Tensor]]:
    report = train(config, out)
    assert (report is not None) == (rank == 0)
    if report is None:
        return {}
    return {"run": {"losses": torch.tensor(losses(out)), "texts": torch.tensor(report["test"]["test"]["texts"])}}


@pytest.mark.slow
def test_two_processes_give_the_losses_of_one(of_two: OfTwo, uninterrupted: Path) -> None:
    found = of_two[__name__][0]["run"]
    assert found["losses"].tolist() == pytest.approx(losses(uninterrupted), rel=2e-3)
    assert found["texts"] == 12


def test_cached_texts_and_accumulation(config: RunConfig, tmp_path: Path) -> None:
    """With a frozen text tower nothing but the store is read; two half batches are one step."""
    overrides = ["model.text_tuning=none", "train.accumulation=2", "train.epochs=1", "model.similarity=query_scoring"]
    overrides += ["train.precision=bf16", "train.loss=sigmoid", "train.tracker=tensorboard", "train.encode_at_once=5"]
    report = train(with_values(config, tmp_path, *overrides), tmp_path / "run")
    assert report is not None and len(losses(tmp_path / "run")) == 3
    weights = load_model(tmp_path / "run").trained()
    assert not any(name.startswith("backbone.") for name in weights)
    events = EventAccumulator(str(next((tmp_path / "run" / "tensorboard").rglob("events*")).parent)).Reload()
    assert [e.value for e in events.Scalars("loss")] == pytest.approx(losses(tmp_path / "run"))
    assert events.Scalars("val/text_to_video/R@1")


def test_without_a_validation_split_training_clips_are_held_out(config: RunConfig, tmp_path: Path) -> None:
    manifest = [c for c in read_manifest(config.data.manifest) if c.split != "val"]
    write_manifest(manifest, tmp_path / "m.jsonl")
    changed = with_values(config, tmp_path, f"data.manifest={tmp_path / 'm.jsonl'}", "data.held_out=3")
    splits = Splits.of(changed, FeatureStore(config.data.store))
    assert len(splits.validation) == 2 and len(splits.train) == 22  # a tenth of 24
    assert not {c.id for c in splits.train} & {c.id for c in splits.validation}
    assert Splits.of(changed, FeatureStore(config.data.store)).validation == splits.validation
    report = train(with_values(changed, tmp_path, "train.epochs=1", "train.batch_size=12"), tmp_path / "run")
    assert report is not None and report["selected_by"] == "2 clips held out of train, text_to_video/R@1"
    tested = with_values(config, tmp_path, "data.test=[val]")
    assert Splits.of(tested, FeatureStore(config.data.store)).chosen_on.startswith("2 clips held out")
    held = with_values(config, tmp_path, "data.validation=held_out")
    assert Splits.of(held, FeatureStore(config.data.store)).chosen_on.startswith("2 clips held out")


def test_clips_of_one_file_are_held_out_together() -> None:
    clips = [Clip(id=f"{v}_{n}", path=f"{v}.mp4", captions=("x",)) for v in range(20) for n in range(5)]
    stay, apart = hold_out(clips, 7)
    assert len(apart) == 5 and not {c.path for c in stay} & {c.path for c in apart} and len(stay) == 95
    with pytest.raises(DataError, match="too few to hold some out"):
        hold_out(clips[:5], 7)
    with pytest.raises(DataError, match="too few to hold some out"):
        hold_out(clips[:45:5], 7)  # nine clips of nine files


def test_choosing_on_the_test_split_is_labelled(config: RunConfig, tmp_path: Path) -> None:
    changed = with_values(config, tmp_path, "select.split=test_as_published", "train.epochs=1")
    report = train(changed, tmp_path / "run")
    assert report is not None and report["selected_by"] == "test, the test split (test_as_published), text_to_video/R@1"
    assert "(test_as_published)" in (tmp_path / "run" / "README.md").read_text()


def test_the_report_counts_what_belongs_together_and_names_its_protocol(config: RunConfig, tmp_path: Path) -> None:
    """Three captions a clip and 24 pairs a batch: the counts are those of a loop over the batches."""
    clips = read_manifest(config.data.manifest)
    first = next(c for c in clips if c.split == "train")
    twin = [c.model_copy(update={"captions": first.captions}) if c.split == "train" else c for c in clips]
    write_manifest(twin, tmp_path / "m.jsonl")  # every training clip says the same three things
    changed = with_values(config, tmp_path, f"data.manifest={tmp_path / 'm.jsonl'}", "train.epochs=1")
    report = train(changed, tmp_path / "run")
    assert report is not None
    expected = {"same_video": 0, "same_caption": 0}
    order = np.random.default_rng([3, 0]).permutation(72)
    for batch in order.reshape(3, 24):
        for a, b in itertools.combinations(batch.tolist(), 2):
            if a // 3 == b // 3:
                expected["same_video"] += 1
            elif a % 3 == b % 3:
                expected["same_caption"] += 1
    assert report["repeats"] == expected and expected["same_caption"] > expected["same_video"] > 0
    assert (
        report["test"]["test"]["protocol"]["name"] == "custom"
        and len(report["test"]["test"]["protocol"]["content"]) == 16
    )
    card = (tmp_path / "run" / "README.md").read_text()
    assert f"{expected['same_video']} of one video, {expected['same_caption']} of one caption" in card


def test_a_split_that_is_not_the_protocols_is_refused_before_training(config: RunConfig, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="has 9000 videos and 180000 texts, but 24 videos and 72 texts were found"):
        train(with_values(config, tmp_path, "data.protocol=msrvtt_1k_a"), tmp_path / "run")
    card = {
        "name": "mine",
        "splits": {"train": {"videos": 24}, "test": {"videos": 12, "texts": 12}},
        "directions": ["text_to_video"],
    }
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(card))
    report = train(
        with_values(config, tmp_path, f"data.protocol={tmp_path / 'mine.yaml'}", "train.epochs=1"), tmp_path / "run"
    )
    assert report is not None and report["test"]["test"]["protocol"]["name"] == "mine"
    assert "text_to_video/R@1" in report["test"]["test"] and "video_to_text/R@1" not in report["test"]["test"]


@pytest.mark.slow
def test_seeds_and_processes_share_the_demos_data(tmp_path: Path) -> None:
    """Two processes cache what the demo's data needs together; another seed of the run leaves the videos alone."""
    manifest = write_moving_shapes(tmp_path / "videos", seed=7, counts=Counts(train=12, val=2, test=2, novel=1))
    written = manifest.stat().st_mtime_ns
    overrides = [
        f"data.manifest={manifest}",
        f"data.store={tmp_path / 'store'}",
        "data.synthetic=moving_shapes",
        "train.batch_size=12",
        "train.epochs=1",
    ]
    arguments = ["demo/mean", *overrides, "--out", str(tmp_path / "run"), "--seeds", "2"]
    subprocess.run(launched(2, *arguments), check=True, stdout=subprocess.DEVNULL, env=ONE_THREAD, timeout=300)
    assert len(FeatureStore(tmp_path / "store")) == 22 and manifest.stat().st_mtime_ns == written
    assert set(json.loads((tmp_path / "run" / "seeds.json").read_text())["test"]) == {"test", "novel"}


def test_several_seeds_give_mean_deviation_and_interval(config: RunConfig, tmp_path: Path) -> None:
    short = with_values(
        config,
        tmp_path,
        "train.epochs=1",
        "data.test=[test]",
        "model.text_tuning=none",
        "model.similarity=query_scoring",
    )
    found = train_seeds(short, tmp_path / "runs", range(2))
    assert found is not None
    row = found["test"]["test"]["text_to_video/R@1"]
    reports = [json.loads((tmp_path / "runs" / f"seed{s}" / "report.json").read_text()) for s in range(2)]
    assert row["values"] == [r["test"]["test"]["text_to_video/R@1"] for r in reports] and [
        r["seed"] for r in reports
    ] == [0, 1]
    assert row["mean"] == pytest.approx(np.mean(row["values"])) and row["deviation"] == pytest.approx(
        np.std(row["values"], ddof=1)
    )
    assert row["interval"][0] <= row["mean"] <= row["interval"][1]
    assert json.loads((tmp_path / "runs" / "seeds.json").read_text()) == found


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
