"""Checkpoints and run folders: kills, full disks and damaged files."""

from __future__ import annotations

import errno
import io
import json
import os
import random
import resource
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import videoclip as vc
from videoclip.backbone.openclip import OpenClip
from videoclip.cli import main
from videoclip.config import RunConfig
from videoclip.describe import describe
from videoclip.errors import CheckpointError, StoreError, VideoclipError
from videoclip.model import create_model, load_model
from videoclip.store import FeatureStore
from videoclip.training import loop
from videoclip.training.run import Run

POINTS = {io: ("open",), os: ("replace", "unlink", "fsync")}  # where a save meets the file system


class Killed(BaseException):
    """Stands for the end of the process: nothing that comes later reaches the disk."""


@contextmanager
def failing(monkeypatch: pytest.MonkeyPatch, at: int, kill: bool) -> Iterator[list[int]]:
    """Let the call of number ``at`` to the file system fail; after a kill all later ones fail as well."""
    calls = [0]

    def failing_or(call: Callable[..., Any]) -> Callable[..., Any]:
        def run(*given: Any, **named: Any) -> Any:
            calls[0] += 1
            if kill and calls[0] > at:
                raise Killed
            if calls[0] == at + 1:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return call(*given, **named)

        return run

    with monkeypatch.context() as patch:
        for module, names in POINTS.items():
            for name in names:
                patch.setattr(module, name, failing_or(getattr(module, name)))
        yield calls


def made(tiny: OpenClip, temporal: str, seed: int) -> vc.VideoTextModel:
    torch.manual_seed(seed)
    return create_model(tiny, temporal=temporal, frames=4).eval()


def is_same(found: vc.VideoTextModel, expected: vc.VideoTextModel) -> bool:
    mine, theirs = found.trained(), expected.trained()
    return found.config == expected.config and all(torch.equal(mine[name], theirs[name]) for name in theirs)


@pytest.mark.parametrize("kill", [True, False], ids=["kill", "full disk"])
@pytest.mark.parametrize("temporal", ["lstm", "conv"], ids=["same config", "other config"])
def test_a_save_that_fails_anywhere_leaves_a_whole_checkpoint(
    tiny: OpenClip, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, temporal: str, kill: bool
) -> None:
    former, new = made(tiny, "lstm", 0), made(tiny, temporal, 1)
    kept = []
    for at in range(100):
        folder = tmp_path / str(at)
        former.save(folder)
        try:
            with failing(monkeypatch, at, kill) as calls:
                new.save(folder)
        except (Killed, StoreError):
            pass
        found = load_model(folder, tiny)
        kept.append(is_same(found, former))
        assert kept[-1] or is_same(found, new), f"neither, after call {at}"
        if calls[0] <= at:
            break
    assert at >= 5, "the faults did not reach the save"
    assert kept == sorted(kept, reverse=True)
    assert kept[0] and not kept[-1]


def test_a_killed_process_leaves_a_whole_checkpoint(tiny: OpenClip, tmp_path: Path) -> None:
    """The same with real kills, at random moments of saving two models in turn."""
    models = [made(tiny, "lstm", 0), made(tiny, "conv", 1)]
    folder, drawn = tmp_path / "best", random.Random(0)
    models[0].save(folder)
    for _ in range(12):
        child = os.fork()
        if child == 0:
            while True:
                for model in models:
                    model.save(folder)
        time.sleep(drawn.uniform(0.01, 0.1))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        found = load_model(folder, tiny)
        assert any(is_same(found, model) for model in models)


def test_weights_alone_are_enough_and_an_edited_config_counts(tiny: OpenClip, tmp_path: Path) -> None:
    model = made(tiny, "lstm", 0)
    model.save(tmp_path)
    config = tmp_path / "config.yaml"
    config.write_text(config.read_text().replace("frames: 4", "frames: 7"))
    assert load_model(tmp_path, tiny).config.frames == 7
    config.unlink()
    assert is_same(load_model(tmp_path, tiny), model)
    assert describe(tmp_path)["frames"] == 4


def test_a_checkpoint_without_a_config_in_its_weights_opens(tiny: OpenClip, tmp_path: Path) -> None:
    """As version 0.1 wrote them."""
    model = made(tiny, "lstm", 0)
    model.save(tmp_path)
    save_file(load_file(tmp_path / "model.safetensors"), tmp_path / "model.safetensors")
    assert is_same(load_model(tmp_path, tiny), model)
    (tmp_path / "config.yaml").unlink()
    with pytest.raises(CheckpointError, match=r"config.yaml is missing"):
        load_model(tmp_path, tiny)


def without(name: str) -> Callable[[dict[str, Tensor]], dict[str, Tensor]]:
    return lambda weights: {n: t for n, t in weights.items() if n != name}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without("logit_scale"), "missing logit_scale"),
        (lambda weights: {**weights, "\x1b[1m": torch.zeros(1)}, r"left over \\x1b"),
        (lambda weights: {**weights, "temporal.lstm.bias_hh_l0": torch.zeros(3)}, r"is \(3,\) instead of \(512,\)"),
        (lambda weights: {f"w{number}": torch.zeros(1) for number in range(50)}, "and 47 more"),
    ],
)
def test_weights_that_do_not_fit_are_named(
    tiny: OpenClip, tmp_path: Path, change: Callable[[dict[str, Tensor]], dict[str, Tensor]], message: str
) -> None:
    made(tiny, "lstm", 0).save(tmp_path)
    path = tmp_path / "model.safetensors"
    save_file(change(load_file(path)), path)
    with pytest.raises(CheckpointError, match=message) as caught:
        load_model(tmp_path, tiny)
    assert str(path) in str(caught.value)
    assert "\x1b" not in str(caught.value)


BAD = {
    "empty": b"",
    "cut": None,
    "not UTF-8": b"\xff\xfe\x00{",
    "other": b"[1, 2]\n",
    "number": b"7\n",
    "deep": b"[" * 5000,
}


@pytest.fixture(scope="module")
def config(shapes: Path, shapes_store: FeatureStore) -> RunConfig:
    """Two epochs of three steps, without anything that is trained inside the towers."""
    values = {
        "data": {"manifest": shapes, "store": shapes_store.folder, "sampling": "random"},
        "model": {"temporal": {"name": "lstm"}, "frames": 4},
        "train": {"epochs": 2, "batch_size": 24, "lr": 1e-3, "seed": 3},
    }
    return RunConfig.model_validate(values)


@pytest.fixture(scope="module")
def finished(config: RunConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("run") / "whole"
    loop.train(config, out)
    return out


def losses(run: Path) -> list[float]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [line["loss"] for line in lines if "loss" in line]


@pytest.fixture
def run_folder(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "run"))


def spoil(path: Path, how: str) -> None:
    content = BAD[how]
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2] if content is None else content)


@pytest.mark.parametrize("how", BAD)
@pytest.mark.parametrize(
    "name", ["state.pt", "metrics.jsonl", "report.json", "config.yaml", "best/model.safetensors", "best/config.yaml"]
)
def test_damaged_files_of_a_run_are_one_sentence(name: str, how: str, config: RunConfig, run_folder: Path) -> None:
    path = run_folder / name
    if name != "report.json":
        (run_folder / "report.json").unlink()
    spoil(path, how)
    if name == "metrics.jsonl" and how in ("empty", "cut", "deep"):
        loop.train(config, run_folder, resume=True)  # missing lines, and a last one without its end, come from kills
        return
    with pytest.raises(VideoclipError) as caught:
        loop.train(config, run_folder, resume=True)
    message = str(caught.value)
    assert str(path) in message or (name == "config.yaml" and "another config" in message)
    assert len(message) < 600


@pytest.mark.parametrize("how", BAD)
@pytest.mark.parametrize("name", ["test.ranks.json", "report.json", "config.yaml", "environment.json"])
def test_damaged_results_are_not_compared(
    name: str, how: str, finished: Path, run_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spoil(run_folder / name, how)
    code = main(["compare", str(finished), str(run_folder)])
    error = capsys.readouterr().err
    if (name, how) == ("config.yaml", "cut"):
        return  # the first half of a YAML file may be one, too
    assert code == 1
    assert str(run_folder / name) in error
    assert len(error.splitlines()) == 1


@pytest.mark.parametrize(
    ("place", "message"), [("nowhere", "does not exist"), ("empty", "has no results"), ("file", "is not a folder")]
)
def test_folders_without_results_are_named(
    place: str, message: str, finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").touch()
    for pair in ((finished, tmp_path / place), (tmp_path / place, finished)):
        assert main(["compare", *map(str, pair)]) == 1
        error = capsys.readouterr().err
        assert f"{tmp_path / place} {message}" in error


@pytest.mark.parametrize("place", ["file", "file/run", "x" * 300])
def test_a_run_that_has_no_folder_is_refused_at_once(place: str, config: RunConfig, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match="Cannot write to"):
        loop.train(config, tmp_path / place)


def stop_after(monkeypatch: pytest.MonkeyPatch, steps: int) -> None:
    """Let the training end at the log line of a step, as a kill would."""
    log, seen = Run.log, [0]

    def run(self: Run, values: dict[str, Any]) -> None:
        seen[0] += 1
        if seen[0] > steps:
            raise Killed
        log(self, values)

    monkeypatch.setattr(Run, "log", run)


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(0.0, "resuming at epoch 1 of 2, step 3 of 3"), (1e9, "no checkpoint yet, starting at epoch 1")],
)
def test_checkpoints_come_by_time_as_well(
    config: RunConfig,
    finished: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    seconds: float,
    said: str,
) -> None:
    assert loop.SAVE_SECONDS == 60
    monkeypatch.setattr(loop, "SAVE_SECONDS", seconds)
    with monkeypatch.context() as patch, pytest.raises(Killed):
        stop_after(patch, 2)
        loop.train(config, tmp_path / "run")
    loop.train(config, tmp_path / "run", resume=True)
    assert f"{tmp_path / 'run'}: {said}" in capsys.readouterr().out.replace("\n", "")
    assert losses(tmp_path / "run") == losses(finished)


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """Let the system refuse to write more than so many bytes into a file, as a full disk does."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_disk_that_runs_full_leaves_no_half_and_says_how_to_continue(
    config: RunConfig, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "run"
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(loop, "SAVE_SECONDS", 0.0)
        stop_after(patch, 2)
        loop.train(config, out)
    before = (out / "state.pt").read_bytes()
    with largest_file(50_000), pytest.raises(StoreError, match=r"Cannot write to .*is safe.*--resume"):
        loop.train(config, out, resume=True)
    assert not list(out.rglob("*.tmp"))
    assert (out / "state.pt").read_bytes() == before
    loop.train(config, out, resume=True)
    assert losses(out) == losses(finished)


@pytest.mark.parametrize("at", range(1, 14, 3))
def test_a_training_that_meets_a_full_disk_anywhere_can_be_resumed(
    config: RunConfig, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    out, sync, calls = tmp_path / "run", os.fsync, [0]

    def fail(descriptor: int) -> None:
        calls[0] += 1
        if calls[0] == at:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        sync(descriptor)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fail)
        patch.setattr(loop, "SAVE_SECONDS", 0.0)
        with pytest.raises(StoreError, match=r"No space left on device.*--resume"):
            loop.train(config, out)
    assert not list(out.rglob("*.tmp"))
    report = loop.train(config, out, resume=True)
    assert report is not None
    assert report["test"] == json.loads((finished / "report.json").read_text())["test"]
    assert losses(out) == losses(finished)
