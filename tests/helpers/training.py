"""Training runs in tests: what they logged, and how they are interrupted without a process of their own."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from videoclip.training.loop import Trainer


class StoppedError(Exception):
    """Ends a run from inside."""


@contextmanager
def stopped_before(step: int) -> Iterator[None]:
    """Run a training that must end, as by a kill, before its step number ``step``, counted from 0."""
    real, done = Trainer.step, 0

    def counted(self: Trainer, stream: Any, number: int) -> None:
        nonlocal done
        if done == step:
            raise StoppedError
        done += 1
        real(self, stream, number)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "step", counted)
        with pytest.raises(StoppedError):
            yield


def losses(run: Path) -> list[float]:
    """Read the loss of every step that a run has logged."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [line["loss"] for line in lines if "loss" in line]
