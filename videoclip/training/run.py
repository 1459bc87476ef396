"""The folder of a training run: resolved config, environment, metrics, checkpoints, best model, report.

Every file is written aside and renamed, so a kill leaves either the old or the new one.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from videoclip.config import RunConfig, dump, load_config
from videoclip.errors import CheckpointError, DataError
from videoclip.files import replace_text
from videoclip.training.card import model_card


@dataclass
class Progress:
    """How far a run has come: the next step of the next epoch, and the best epoch so far."""

    epoch: int = 0
    step: int = 0
    best_value: float | None = None
    best_epoch: int | None = None


class Run:
    """A run's folder.

    Args:
        folder: where.
        config: resolved; written there, or compared with what is there on resuming.
        resume: go on with the run in ``folder``; without it the folder must hold none, or a finished one.

    Raises:
        CheckpointError: there is an unfinished run and ``resume`` was not said, or its config is another one.
    """

    def __init__(self, folder: str | Path, config: RunConfig, resume: bool) -> None:
        self.folder = Path(folder)
        self._metrics = self.folder / "metrics.jsonl"
        self._state = self.folder / "state.pt"
        written = self.folder / "config.yaml"
        if written.exists():
            if load_config(written) != config:
                raise CheckpointError(f"{self.folder} holds a run with another config; choose another --out.")
            if not resume and self.read_report() is None:
                raise CheckpointError(
                    f"{self.folder} holds an unfinished run; add --resume to go on with it, or choose another --out."
                )

    def start(self, config: RunConfig, store_fingerprint: str | None, processes: int) -> None:
        """Write what describes the run; harmless on resuming."""
        self.folder.mkdir(parents=True, exist_ok=True)
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
        """Write a checkpoint: everything that going on needs."""
        temporary = self._state.with_suffix(".tmp")
        torch.save({"progress": vars(progress), **state}, temporary)
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.replace(self._state)

    def load(self) -> tuple[Progress, dict[str, Any] | None]:
        """The last checkpoint, or a fresh start where there is none."""
        if not self._state.exists():
            return Progress(), None
        state = torch.load(self._state, map_location="cpu", weights_only=True)
        return Progress(**state.pop("progress")), state

    def cut_log(self, epoch: int, step: int) -> None:
        """Drop log lines that came after a checkpoint: their steps are about to be done again."""
        if self._metrics.exists():
            lines = [line for line in self._metrics.read_text().splitlines(keepends=True) if line.endswith("\n")]
            done = [json.loads(line) for line in lines]
            kept = [line for line, v in zip(lines, done, strict=True) if (v["epoch"], v["step"]) < (epoch, step)]
            replace_text(self._metrics, "".join(kept))

    def log(self, values: dict[str, Any]) -> None:
        """Append a line to ``metrics.jsonl``."""
        with self._metrics.open("a") as file:
            file.write(json.dumps(values) + "\n")

    def read_report(self) -> dict[str, Any] | None:
        """The result, if the run is finished."""
        path = self.folder / "report.json"
        return dict(json.loads(path.read_text())) if path.exists() else None

    def report(self, values: dict[str, Any]) -> None:
        """Write ``report.json``, the run's result, and a page about it."""
        replace_text(self.folder / "README.md", model_card(load_config(self.folder / "config.yaml"), values))
        replace_text(self.folder / "report.json", json.dumps(values, indent=2) + "\n")


def read_ranks(folder: Path, split: str) -> dict[str, dict[str, Any]]:
    """What an evaluation's ``write_ranks`` kept: direction -> queries and their ranks.

    Raises:
        DataError: the folder holds no ranks of this split.
    """
    path = folder / f"{split}.ranks.json"
    if not path.is_file():
        raise DataError(f"{path}: there are no ranks of single queries; train or evaluate into this folder first.")
    return dict(json.loads(path.read_text()))


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
