"""The command line on real files, in process; and the whole demo, small."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from videoclip import demo as demo_module
from videoclip.cli import main
from videoclip.synthetic import moving_shapes


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    code = main([str(a) for a in arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


@pytest.fixture(scope="module")
def small_demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo on a handful of videos and two short epochs; only its size differs from the real one."""
    out = tmp_path_factory.mktemp("demo") / "demo"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(moving_shapes.Counts, "__init__", _small_counts)
        load = demo_module.load_config
        short = ["train.epochs=2", "train.batch_size=24"]
        patch.setattr(demo_module, "load_config", lambda name, overrides: load(name, [*overrides, *short]))
        assert main(["demo", "--out", str(out)]) == 0
        before = (out / "results.json").read_text()
        assert main(["demo", "--out", str(out)]) == 0  # a second call does nothing again
        assert _without_seconds(before) == _without_seconds((out / "results.json").read_text())
    return out


@pytest.mark.slow
def test_a_demo_of_another_seed_is_not_mixed_in(small_demo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = run(capsys, "demo", "--out", small_demo, "--seed", 1)
    assert code == 1 and "holds a demo of seed 0; choose another --out for seed 1" in err


def _small_counts(self: moving_shapes.Counts) -> None:
    for name, value in {"train": 16, "val": 2, "test": 4, "novel": 2}.items():
        object.__setattr__(self, name, value)


def _without_seconds(text: str) -> dict[str, object]:
    values = json.loads(text)
    return {
        "rows": [{k: v for k, v in r.items() if k != "seconds"} for r in values["rows"]],
        "rerank": values["rerank"],
    }


@pytest.mark.slow
def test_the_demo_leaves_what_it_says(small_demo: Path) -> None:
    results = json.loads((small_demo / "results.json").read_text())
    names = [row["name"] for row in results["rows"]]
    assert names == ["zero_shot", "mean", "query_scoring", "transformer", "lstm", "difference"]
    for row in results["rows"]:
        for split, videos in (("twins", 8), ("novel", 4)):
            low, high = row[split]["interval"]
            assert 0 <= low <= row[split]["text_to_video/R@1"] <= high <= 100
            assert row[split]["videos"] == videos and row[split]["missing"] == 0
        assert (row["parameters"] == 0) == (row["name"] == "zero_shot") and row["seconds"] >= 0
    assert set(results["rerank"]) == {"before", "after"}
    page = (small_demo / "report.html").read_text()
    assert page.count("data:image/png") >= 12 and "http" not in page and "query_scoring" in page
    assert (small_demo / "runs" / "lstm" / "best" / "model.safetensors").exists()


def test_evaluate_search_and_info(small_demo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    manifest, store, checkpoint = (
        small_demo / "videos" / "manifest.jsonl",
        small_demo / "store",
        small_demo / "runs" / "lstm",
    )
    code, out, _ = run(
        capsys,
        "evaluate",
        checkpoint,
        "--manifest",
        manifest,
        "--store",
        store,
        "--split",
        "test",
        "--out",
        tmp_path / "e",
    )
    report = json.loads((checkpoint / "report.json").read_text())
    assert code == 0 and json.loads(out)["text_to_video/R@1"] == report["test"]["test"]["text_to_video/R@1"]
    assert {p.name for p in (tmp_path / "e").iterdir()} == {
        "test.json",
        "test.ranks.json",
        "test.run",
        "test.queries.tsv",
        "test.qrels",
    }
    code, out, _ = run(capsys, "search", store, "a small red circle", "-k", 3)
    assert code == 0 and len(out.splitlines()) == 3 and "best at" in out
    code, out, _ = run(capsys, "search", store, "a small red circle", "--checkpoint", checkpoint)
    assert code == 0 and len(out.splitlines()) == 5
    for path, expected in (
        (small_demo / "videos" / "train" / "0000.mp4", "codec: h264"),
        (store, "clips: 32"),
        (checkpoint, "best_epoch"),
        (checkpoint / "best", "fingerprint"),
    ):
        code, out, _ = run(capsys, "info", path)
        assert code == 0 and expected in out


def test_rerank_before_and_after(small_demo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = small_demo / "rerank"
    files = ["--run", given / "mean.run", "--queries", given / "mean.queries.tsv", "--store", small_demo / "store"]
    code, out, _ = run(capsys, "rerank", *files, "--out", tmp_path / "new.run", "--qrels", given / "mean.qrels")
    expected = json.loads((small_demo / "results.json").read_text())["rerank"]
    assert code == 0 and f"before {expected['before']['R@1']:6.2f}  after {expected['after']['R@1']:6.2f}" in out
    assert (tmp_path / "new.run").read_text() == (given / "mean.reranked.run").read_text()


def test_cache_a_folder_twice(small_demo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(small_demo / "videos" / "val", tmp_path / "v")
    (tmp_path / "v" / "broken.mp4").write_text("no video")
    (tmp_path / "v" / "notes.txt").write_text("x")
    code, out, _ = run(capsys, "cache", tmp_path / "v", "--out", tmp_path / "s", "--frames", 3, "--workers", 0)
    assert code == 0 and "4 clips cached now, 0 already present, 1 failed now" in out
    assert (
        "broken.mp4: cannot be opened" in out and "skipped 1 files that are not videos by their names (.txt: 1)" in out
    )
    code, out, _ = run(capsys, "cache", tmp_path / "v", "--out", tmp_path / "s", "--frames", 3)
    assert code == 0 and "0 clips cached now, 4 already present, 0 failed now, 1 failed before (--retry-failed" in out


def test_errors_are_one_sentence_and_exit_1(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, expected in (
        (("search", tmp_path, "x"), "is not a feature store"),
        (("info", tmp_path / "absent.mp4"), "no such file"),
        (("info", tmp_path), "is not a feature store, training run or checkpoint"),
        (("train", "demo/absent"), "no such file, and no shipped config"),
        (("train", "demo/lstm", "train.epoch=3"), "did you mean 'epochs'?"),
        (("cache", tmp_path, "--out", tmp_path / "s"), "contains no video file"),
        (("cache", tmp_path, "--out", tmp_path / "s", "--model", "ViT-B32"), "contains no video file"),
    ):
        code, _, err = run(capsys, *arguments)
        assert code == 1 and expected in err and "Traceback" not in err


def test_print_config_is_valid_input(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "train", "demo/lstm", "train.epochs=3", "--print-config")
    (tmp_path / "c.yaml").write_text(out)
    again = run(capsys, "train", tmp_path / "c.yaml", "--print-config")
    assert code == 0 and again[1] == out and "epochs: 3" in out
