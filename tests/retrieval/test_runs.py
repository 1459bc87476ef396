from __future__ import annotations

from pathlib import Path

import pytest

from videoclip.errors import DataError
from videoclip.retrieval.runs import read_qrels, read_queries, read_run, run_metrics, write_run


def test_round_trip_and_order(tmp_path: Path) -> None:
    run = {"q2": [("b", 0.5), ("a", 0.25)], "q1": [("x/y.mp4", 3.0)]}
    write_run(run, tmp_path / "r")
    assert (tmp_path / "r").read_text().splitlines()[0] == "q2 Q0 b 1 0.5 videoclip"
    assert read_run(tmp_path / "r") == run
    (tmp_path / "r").write_text("q Q0 low 1 0.1 t\nq Q0 tie2 3 0.9 t\nq Q0 tie1 2 0.9 t\n")
    assert [video for video, _ in read_run(tmp_path / "r")["q"]] == ["tie1", "tie2", "low"]


def test_metrics_by_hand(tmp_path: Path) -> None:
    (tmp_path / "q").write_text("q1 0 a 1\nq1 0 b 0\nq1 0 c 2\nq2 0 a 1\nq3 0 a 0\n")
    qrels = read_qrels(tmp_path / "q")
    assert qrels == {"q1": {"a", "c"}, "q2": {"a"}, "q3": set()}
    run = {"q1": [("b", 3.0), ("a", 2.0), ("c", 1.0)]}
    metrics = run_metrics(run, qrels)  # q2 is missing from the run: zero; q3 has no relevant video: not counted
    assert metrics["R@1"] == 0 and metrics["R@5"] == 50 and metrics["MRR"] == 25
    assert metrics["mAP"] == pytest.approx(100 * ((1 / 2 + 2 / 3) / 2) / 2)
    with pytest.raises(DataError, match="no video relevant"):
        run_metrics(run, {"q3": set()})


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("q Q0 a 1 0.5", "line 1: expected"),
        ("q Q0 a one 0.5 t", "line 1"),
        ("q Q0 a 1 2 t\nq Q0 a 2 1 t", "more than once"),
    ],
)
def test_malformed_runs_are_named(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "r").write_text(content)
    with pytest.raises(DataError, match=message):
        read_run(tmp_path / "r")


def test_other_mistakes(tmp_path: Path) -> None:
    (tmp_path / "q.tsv").write_text("q1 no tab")
    with pytest.raises(DataError, match="tab"):
        read_queries(tmp_path / "q.tsv")
    with pytest.raises(DataError, match="An id is empty"):
        write_run({"q": [("", 1.0)]}, tmp_path / "r")
    with pytest.raises(DataError, match="no such file"):
        read_run(tmp_path / "absent")
