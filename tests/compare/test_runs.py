"""Two results beside each other: verdicts by paired intervals, and every difference by name."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from videoclip.cli import main
from videoclip.compare.runs import compare, describe
from videoclip.errors import DataError


def result(folder: Path, ranks: np.ndarray, lr: float = 0.1, queries: int | None = None) -> Path:
    """A run's folder as training leaves it, its figures made up."""
    folder.mkdir()
    names = [f"v{n}" for n in range(queries or len(ranks))]
    directions = {"text_to_video": {"queries": [[n, "x"] for n in names], "ranks": ranks.tolist()}}
    (folder / "test.ranks.json").write_text(json.dumps(directions))
    (folder / "config.yaml").write_text(f"train: {{lr: {lr}, seed: 0}}\n")
    (folder / "environment.json").write_text(json.dumps({"packages": {"torch": "2"}, "git": None}))
    (folder / "report.json").write_text(json.dumps({"test": {"test": {"protocol": {"name": "custom"}, "missing": 0}}}))
    return folder


def test_better_worse_cannot_tell(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rng = np.random.default_rng(0)
    weak = rng.integers(1, 5, 300)
    first = result(tmp_path / "a", weak)
    second = result(tmp_path / "b", np.where(rng.random(300) < 0.2, 1, weak), lr=0.2)
    assert main(["compare", str(first), str(second), "--out", str(tmp_path / "c.json")]) == 0
    out = capsys.readouterr().out
    row = json.loads((tmp_path / "c.json").read_text())["results"][0]
    assert row["verdict"] == "better" and row["interval"][0] > 0
    assert f"difference {row['difference']:+.1f} [{row['interval'][0]:.1f}, {row['interval'][1]:.1f}]: better" in out
    assert "config.train.lr: 0.1 -> 0.2" in out
    assert compare(second, first)["results"][0]["verdict"] == "worse"
    same = compare(first, first)
    assert same["results"][0]["verdict"] == "cannot tell" and not same["differences"]
    assert "no differences in what both tell of: config, environment, test" in describe(same)


def test_one_field_that_differs_is_the_one_that_is_shown(tmp_path: Path) -> None:
    ranks = np.ones(10)
    found = compare(result(tmp_path / "a", ranks), result(tmp_path / "b", ranks, lr=0.3))
    assert found["differences"] == {"config.train.lr": [0.1, 0.3]}


def test_what_cannot_be_compared_is_refused(tmp_path: Path) -> None:
    first, other = result(tmp_path / "a", np.ones(10)), result(tmp_path / "b", np.ones(12), queries=12)
    with pytest.raises(DataError, match="different queries of split 'test' .10 and 12."):
        compare(first, other)
    (other / "test.ranks.json").unlink()
    with pytest.raises(DataError, match="has no results"):
        compare(first, other)
