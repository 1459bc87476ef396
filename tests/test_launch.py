"""A refusal in a launch of several processes: one sentence, from the main process."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from videoclip import cli

TRAIN = Path(__file__).parents[1] / "tools" / "train.py"


@pytest.mark.parametrize(("rank", "waits"), [(None, False), ("0", False), ("1", True)])
def test_other_processes_let_the_main_one_report(
    rank: str | None, waits: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    said_before = list[str]()
    monkeypatch.delenv("RANK", raising=False)
    if rank is not None:
        monkeypatch.setenv("RANK", rank)
    monkeypatch.setattr(cli.time, "sleep", lambda seconds: said_before.append(capsys.readouterr().err))
    assert cli.main(["train", "no/such/config"]) == 1
    assert said_before == ([""] if waits else [])
    assert "no/such/config" in capsys.readouterr().err


@pytest.mark.slow
def test_two_processes_report_once(tmp_path: Path) -> None:
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--standalone"]
    places = [f"data.manifest={tmp_path / 'absent.jsonl'}", f"data.store={tmp_path / 'store'}"]
    command = [*launch, str(TRAIN), "demo/mean", *places, "--out", str(tmp_path / "run")]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode != 0
    assert done.stderr.count("error: ") == 1
