"""One config under several seeds: how far apart do they lie, and what holds over them?"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from videoclip.config import RunConfig
from videoclip.files import replace_text
from videoclip.metrics import bootstrap_interval, hits
from videoclip.training.loop import train
from videoclip.training.run import read_ranks


def with_seed(config: RunConfig, seed: int) -> RunConfig:
    """The same run under another seed."""
    return config.model_copy(update={"train": config.train.model_copy(update={"seed": seed})})


def train_seeds(
    config: RunConfig,
    out: Path,
    seeds: Sequence[int],
    resume: bool = False,
    prepare: Callable[[RunConfig], None] | None = None,
) -> dict[str, Any] | None:
    """Train each seed in ``out/seedN``; what is finished is not done again.

    Returns:
        For every test split and metric the values, their mean and their deviation (of the sample) over seeds; for R@1
        also the 95 % bootstrap interval, over queries, of the mean over seeds. Written to ``out/seeds.json``. None but
        in the main process.
    """
    folders = [out / f"seed{seed}" for seed in seeds]
    reports = [
        train(with_seed(config, seed), folder, resume and (folder / "config.yaml").exists(), prepare)
        for seed, folder in zip(seeds, folders, strict=True)
    ]
    if reports[0] is None:
        return None
    tests = {}
    for split in config.data.test:
        found = [report["test"][split] for report in reports if report is not None]
        names = [name for name in found[0] if name.startswith(("text_to_video/", "video_to_text/"))]
        tests[split] = {name: _spread([one[name] for one in found]) for name in names}
        for direction in read_ranks(folders[0], split):
            each = [hits(read_ranks(folder, split)[direction]["ranks"]) for folder in folders]
            tests[split][f"{direction}/R@1"]["interval"] = list(bootstrap_interval(np.mean(each, axis=0)))
    results = {"seeds": list(seeds), "test": tests}
    replace_text(out / "seeds.json", json.dumps(results, indent=2) + "\n")
    return results


def _spread(values: Sequence[float]) -> dict[str, Any]:
    deviation = float(np.std(values, ddof=1)) if len(values) > 1 else None
    return {"values": list(values), "mean": float(np.mean(values)), "deviation": deviation}
