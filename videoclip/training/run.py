"""The folder of a training run: resolved config, environment, metrics, checkpoints, best model, report.

Every file but the log is written aside, synced and renamed, so that a kill leaves either the old or the new one; the
log is cut back to the last checkpoint on resuming.
"""

from __future__ import annotations

import json
import platform
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import IO, Any

import torch

from videoclip.config import RunConfig, dump, load_config
from videoclip.errors import CheckpointError, DataError, StoreError, writing
from videoclip.files import make_folder, read_json, reading, replace_text, replacing
from videoclip.training.card import model_card


@dataclass
class Progress:
    """How far a run has come: the next step of the next epoch, and the best epoch so far."""

    epoch: int = 0
    step: int = 0
    best_value: float | None = None
    best_epoch: int | None = None

    def describe(self, steps: int, epochs: int) -> str:
        """Say from where a run of so many steps per epoch is resumed."""
        if self.epoch >= epochs:
            return "all epochs are done, testing the best one"
        place = f"epoch {self.epoch + 1} of {epochs}, step {self.step + 1} of {steps}"
        return f"resuming at {place}" if self.epoch or self.step else f"no checkpoint yet, starting at {place}"


class Run:
    """A run's folder.

    Args:
        folder: where.
        config: resolved; written there, or compared with what is there on resuming.
        resume: continue the run in ``folder``; without it the folder must contain none, or a finished one.

    Raises:
        CheckpointError: there is an unfinished run and ``resume`` was not given, or its config is another one.
        StoreError: the folder cannot be made.
    """

    def __init__(self, folder: str | Path, config: RunConfig, resume: bool) -> None:
        self.folder = make_folder(Path(folder))
        self._metrics = self.folder / "metrics.jsonl"
        self._state = self.folder / "state.pt"
        written = self.folder / "config.yaml"
        if written.exists():
            if load_config(written) != config:
                raise CheckpointError(f"{self.folder} contains a run with another config; choose another --out.")
            if not resume and self.read_report() is None:
                raise CheckpointError(
                    f"{self.folder} contains an unfinished run; add --resume to continue it, or choose another --out."
                )

    def start(self, config: RunConfig, store_fingerprint: str | None, processes: int) -> None:
        """Write what describes the run; harmless on resuming."""
        replace_text(self.folder / "config.yaml", dump(config))
        packages = ("videoclip", "torch", "open_clip_torch", "accelerate", "numpy", "av")
        environment = {
            "command": sys.argv,
            "git": _git_state(Path.cwd()),
            "python": platform.python_version(),
            "platform": platform.platform(),
            "packages": {name: version(name) for name in packages},
            "threads": torch.get_num_threads(),
            "processes": processes,
            "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
            "store": store_fingerprint,
        }
        replace_text(self.folder / "environment.json", json.dumps(environment, indent=2) + "\n")

    def save(self, progress: Progress, state: dict[str, Any]) -> None:
        """Write a checkpoint: everything that resuming needs.

        Raises:
            StoreError: it cannot be written; the last checkpoint stays.
        """
        with replacing(self._state) as file:
            _serialize({"progress": vars(progress), **state}, file)

    def load(self) -> tuple[Progress, dict[str, Any] | None]:
        """Return the last checkpoint, or a fresh start where there is none.

        Raises:
            CheckpointError: it cannot be read.
        """
        if not self._state.exists():
            return Progress(), None
        with self.restoring():
            state = torch.load(self._state, map_location="cpu", weights_only=True)
            return Progress(**state.pop("progress")), state

    @contextmanager
    def restoring(self) -> Iterator[None]:
        """Turn whatever goes wrong while the last checkpoint is read and applied into a sentence.

        Raises:
            CheckpointError: it is damaged, or is not one of this run.
        """
        remedy = "Delete it and rerun with --resume to begin this run anew."
        with reading(self._state, "a checkpoint of this run", CheckpointError, remedy):
            yield

    def cut_log(self, epoch: int, step: int) -> None:
        """Drop log lines that came after a checkpoint: their steps are about to be done again.

        Raises:
            DataError: the log cannot be read.
        """
        if not self._metrics.exists():
            return
        with reading(self._metrics, "a log of metrics", remedy="Repair or delete it, then rerun with --resume."):
            text = self._metrics.read_text(encoding="utf-8")
            lines = text.split("\n")[:-1]  # what follows the last line end was cut off by a kill
            done = [json.loads(line) for line in lines]
            kept = [line for line, v in zip(lines, done, strict=True) if (v["epoch"], v["step"]) < (epoch, step)]
        replace_text(self._metrics, "".join(f"{line}\n" for line in kept))

    def log(self, values: dict[str, Any]) -> None:
        """Append a line to ``metrics.jsonl``.

        Raises:
            StoreError: it cannot be written.
        """
        with writing(self._metrics), self._metrics.open("a", encoding="utf-8") as file:
            file.write(json.dumps(values) + "\n")

    def read_report(self) -> dict[str, Any] | None:
        """Return the result, or None where the run is not finished.

        Raises:
            CheckpointError: there is a report, but it cannot be read.
        """
        path = self.folder / "report.json"
        return read_report(path) if path.exists() else None

    def report(self, values: dict[str, Any]) -> None:
        """Write ``report.json``, the run's result, and a page about it."""
        replace_text(self.folder / "README.md", model_card(load_config(self.folder / "config.yaml"), values))
        replace_text(self.folder / "report.json", json.dumps(values, indent=2) + "\n")


@contextmanager
def resumable() -> Iterator[None]:
    """Add to the error of a place that cannot be written how the run is resumed.

    Raises:
        StoreError: in place of one that the system caused.
    """
    try:
        yield
    except StoreError as error:
        if not isinstance(error.__cause__, OSError):
            raise
        raise StoreError(f"{error} Training resumes from its last checkpoint with --resume.") from error.__cause__


def read_report(path: Path) -> dict[str, Any]:
    """Return the content of a run's ``report.json``: at least ``test``, the results of each split.

    Raises:
        CheckpointError: it is missing, or is not a report.
    """
    values = read_json(path, CheckpointError, "Delete it and rerun the training with --resume.")
    tests = values.get("test") if isinstance(values, dict) else None
    if not isinstance(tests, dict) or not all(isinstance(found, dict) for found in tests.values()):
        raise CheckpointError(f'{path} is not a report of a run: it must be a JSON object with "test".')
    return dict(values)


def read_ranks(folder: Path, split: str) -> dict[str, dict[str, Any]]:
    """Return what an evaluation's ``write_ranks`` kept: direction -> ``queries`` and their ``ranks``.

    Raises:
        DataError: the folder has no ranks of this split, or they cannot be read.
    """
    path = folder / f"{split}.ranks.json"
    if not path.is_file():
        raise DataError(f"{path}: there are no ranks of single queries; train or evaluate into this folder first.")
    values = read_json(path)
    with reading(path, "a file of ranks", remedy="Train or evaluate into this folder again."):
        found = {
            direction: {"queries": list(rows["queries"]), "ranks": [float(rank) for rank in rows["ranks"]]}
            for direction, rows in values.items()
        }
        for direction, rows in found.items():
            if len(rows["queries"]) != len(rows["ranks"]) or not all(rank >= 1 for rank in rows["ranks"]):
                raise ValueError(f"{direction} needs a rank of at least 1 for each of its queries")
    return found


def _serialize(state: dict[str, Any], file: IO[bytes]) -> None:
    """Write a state with torch, whose writer covers an error of the system with one of its own."""
    try:
        torch.save(state, file)
    except RuntimeError as error:
        if isinstance(error.__context__, OSError):
            raise error.__context__ from None
        raise


def _git_state(folder: Path) -> dict[str, Any] | None:
    """Commit and whether files were changed, of the repository that the caller stands in; None outside of one."""

    def git(*arguments: str) -> str:
        done = subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True, check=True)
        return done.stdout.strip()

    try:
        return {
            "commit": git("rev-parse", "HEAD"),
            "changed": bool(git("status", "--porcelain", "--untracked-files=no")),
        }
    except (OSError, subprocess.CalledProcessError):
        return None
