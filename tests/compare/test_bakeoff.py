"""A bake-off trains real models on real decoded videos, and says no more than its intervals allow."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from videoclip.cli import main
from videoclip.compare.bakeoff import bakeoff
from videoclip.config import RunConfig, dump, load_config, with_model
from videoclip.errors import ConfigError
from videoclip.metrics import bootstrap_interval, verdict
from videoclip.store import FeatureStore

CONFIGS = sorted((Path(__file__).parents[2] / "configs" / "model").glob("*.yaml"))


@pytest.fixture(scope="module")
def base(shapes: Path, shapes_store: FeatureStore, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An epoch of three steps on a frozen text tower."""
    values = {
        "data": {"manifest": shapes, "store": shapes_store.folder},
        "model": {"frames": 6},
        "train": {"epochs": 1, "batch_size": 24, "lr": 1e-3},
    }
    path = tmp_path_factory.mktemp("base") / "base.yaml"
    path.write_text(dump(RunConfig.model_validate(values)))
    return path


@pytest.mark.slow
def test_rows_verdicts_and_files(base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    command = [
        "bakeoff",
        "model/clip4clip_meanp",
        "model/drl_wti",
        "--on",
        str(base),
        "--out",
        str(out),
        "--seeds",
        "2",
    ]
    assert main([*command, "--set", "train.lr=2e-3"]) == 0
    shown = capsys.readouterr().out
    results = json.loads((out / "bakeoff.json").read_text())
    assert (out / "bakeoff.md").read_text() in shown
    assert [row["name"] for row in results["rows"]] == ["clip4clip_meanp", "drl_wti"] and results["seeds"] == [0, 1]
    for row in results["rows"]:
        low, high = row["text_to_video"]["interval"]
        assert low <= row["text_to_video"]["R@1"] <= high and row["text_to_video"]["queries"] == 12
        assert row["cost"]["milliseconds"] > 0
    assert results["verdicts"]["drl_wti"]["clip4clip_meanp"] in ("better", "worse", "cannot tell")
    resolved = load_config(out / "runs" / "drl_wti-seed1" / "config.yaml")
    assert resolved.train.seed == 1 and resolved.train.lr == 2e-3 and resolved.model.frames == 6
    hits = [json.loads((out / "runs" / f"drl_wti-seed{s}" / "report.json").read_text()) for s in (0, 1)]
    expected = np.mean([hit["test"]["test"]["text_to_video/R@1"] for hit in hits])
    assert results["rows"][1]["text_to_video"]["R@1"] == pytest.approx(expected)


def test_other_data_is_refused(base: Path, tmp_path: Path) -> None:
    one = load_config(base)
    other = load_config(base, ["data.test=[novel]"])
    with pytest.raises(ConfigError, match="second: data or backbone differ"):
        bakeoff({"first": one, "second": other}, tmp_path)


@pytest.mark.parametrize(
    "config",
    [pytest.param(c, marks=[] if number % 4 == 0 else [pytest.mark.slow]) for number, c in enumerate(CONFIGS)],
    ids=lambda c: c.stem,
)
def test_every_published_config_trains(config: Path, base: Path, tmp_path: Path) -> None:
    """From the same store, with words through the live text tower where they are needed."""
    from videoclip.training.loop import train

    report = train(with_model(load_config(base), config), tmp_path / "run")
    assert report is not None and report["test"]["test"]["texts"] == 12
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert np.isfinite([line["loss"] for line in lines if "loss" in line]).all()


def test_verdicts_follow_the_paired_interval() -> None:
    generator = np.random.default_rng(0)
    base = generator.integers(0, 2, 300) * 100.0
    better = np.where(generator.random(300) < 0.1, 100.0, base)
    told = [verdict(bootstrap_interval(difference)) for difference in (better - base, base - better)]
    assert told == ["better", "worse"]
    assert verdict(bootstrap_interval(base - base)) == "cannot tell"
    assert verdict(bootstrap_interval(generator.permutation(base) - base)) == "cannot tell"
