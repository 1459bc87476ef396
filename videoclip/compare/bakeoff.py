"""Many modules on equal terms: one store, one way of training, one table."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from videoclip.compare.cost import Cost, measure
from videoclip.compare.seeds import with_seed
from videoclip.config import RunConfig
from videoclip.demo import prepare_data
from videoclip.errors import ConfigError, printable
from videoclip.escape import markdown as escaped
from videoclip.files import make_folder, replace_text
from videoclip.metrics import bootstrap_interval, hits, verdict, with_interval
from videoclip.store import FeatureStore
from videoclip.training.loop import train
from videoclip.training.run import read_ranks

SIGNS = {"better": "+", "worse": "-", "cannot tell": "?"}


@dataclass(frozen=True)
class Row:
    """A model: hits (in per cent, mean over seeds) of each text and of each video, and what the modules cost."""

    name: str
    text_hits: np.ndarray
    video_hits: np.ndarray
    cost: Cost
    seconds: float


def bakeoff(configs: Mapping[str, RunConfig], out: Path, seeds: Sequence[int] = (0,)) -> dict[str, Any]:
    """Train every config with every seed, test each best epoch, and set them beside each other.

    A model's hit of a query is 1 or 0, its mean over seeds is what counts; intervals and verdicts are bootstraps over
    queries, so they do not tell how much another seed would change. An interrupted bake-off goes on where it stopped.

    Args:
        configs: by name; data and backbone must be the same for all.
        out: gets ``runs/``, ``bakeoff.json`` and ``bakeoff.md``.
        seeds: of order, frames and initial values.

    Returns:
        The content of ``bakeoff.json``.

    Raises:
        ConfigError: configs differ in data or backbone.
        StoreError: ``out`` cannot be made.
    """
    first = _same_terms(configs)
    make_folder(out)  # what cannot be written should be known before hours of training
    prepare_data(first)
    assert first.data.store is not None  # what only has videos is no bake-off of heads
    store = FeatureStore(first.data.store)
    console = Console()
    rows = []
    for name, config in configs.items():
        console.print(printable(name), style="bold", markup=False, highlight=False)
        rows.append(_row(name, config, out, seeds, store.recipe.width))
    split = first.data.test[0]
    results = {"split": split, "seeds": list(seeds), "data": first.data.model_dump(mode="json"), **_results(rows)}
    replace_text(out / "bakeoff.json", json.dumps(results, indent=2) + "\n")
    replace_text(out / "bakeoff.md", markdown(results))
    return results


def markdown(results: Mapping[str, Any]) -> str:
    """Two tables: each model with its interval, verdict against the first, and cost; and all verdicts."""
    rows, verdicts = results["rows"], results["verdicts"]
    base = rows[0]["name"]
    than = f"than {escaped(base)}"
    lines = [
        f"| model | text to video R@1 | video to text R@1 | {than} | parameters | multiply-adds, G | ms | MiB |",
        "| --- | --- | --- | --- | --: | --: | --: | --: |",
    ]
    for row in rows:
        cost = row["cost"]
        star = "" if cost["texts_timed"] == 1000 else "*"
        both = (row["text_to_video"], row["video_to_text"])
        cells = [escaped(row["name"]), *(with_interval(found["R@1"], found["interval"]) for found in both)]
        cells += ["" if row["name"] == base else verdicts[row["name"]][base], f"{cost['parameters']:,}"]
        cells += [f"{cost['multiply_adds'] / 1e9:,.1f}", f"{cost['milliseconds']:,.0f}{star}", f"{cost['mib']:.0f}"]
        lines.append("| " + " | ".join(cells) + " |")
    lines += ["", "Is the row's text-to-video R@1 higher than the column's? + yes, - lower, ? cannot tell.", ""]
    lines.append("| | " + " | ".join(str(number) for number, _ in enumerate(rows, 1)) + " |")
    lines.append("| --- |" + " :-: |" * len(rows))
    for number, row in enumerate(rows, 1):
        signs = [SIGNS[verdicts[row["name"]][o["name"]]] if o is not row else "" for o in rows]
        lines.append(f"| {number} {escaped(row['name'])} | " + " | ".join(signs) + " |")
    return "\n".join(lines) + "\n"


def _row(name: str, config: RunConfig, out: Path, seeds: Sequence[int], width: int) -> Row:
    text_hits, video_hits, seconds = [], [], 0.0
    for seed in seeds:
        seeded = with_seed(config, seed)
        folder = out / "runs" / f"{name}-seed{seed}"
        report = train(seeded, folder, resume=(folder / "config.yaml").exists())
        assert report is not None  # this is the only process
        ranks = read_ranks(folder, config.data.test[0])
        text_hits.append(hits(ranks["text_to_video"]["ranks"]))
        video_hits.append(hits(ranks["video_to_text"]["ranks"]))
        seconds += report["seconds"]
    cost = measure(config.model, width)
    return Row(name, np.mean(text_hits, 0), np.mean(video_hits, 0), cost, round(seconds, 1))


def _results(rows: Sequence[Row]) -> dict[str, Any]:
    table = [
        {
            "name": row.name,
            "text_to_video": _summary(row.text_hits),
            "video_to_text": _summary(row.video_hits),
            "cost": asdict(row.cost),
            "training_seconds": row.seconds,
        }
        for row in rows
    ]
    verdicts = {
        a.name: {b.name: verdict(bootstrap_interval(a.text_hits - b.text_hits)) for b in rows if b is not a}
        for a in rows
    }
    return {"rows": table, "verdicts": verdicts}


def _summary(hits: np.ndarray) -> dict[str, Any]:
    return {"R@1": float(hits.mean()), "interval": list(bootstrap_interval(hits)), "queries": len(hits)}


def _same_terms(configs: Mapping[str, RunConfig]) -> RunConfig:
    """The first config, after checking that the others share its data and backbone."""
    first = next(iter(configs.values()))
    different = [n for n, c in configs.items() if (c.data, c.model.backbone) != (first.data, first.model.backbone)]
    if different:
        raise ConfigError("bakeoff", [f"{name}: data or backbone differ from the first config's" for name in different])
    return first
