"""Two results query by query: is one better, and what else differs between them?"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from videoclip.errors import DataError
from videoclip.files import read_json, read_yaml
from videoclip.metrics import bootstrap_interval, hits, verdict
from videoclip.training.run import read_ranks, read_report

RANKS = ".ranks.json"


def compare(first: Path, second: Path) -> dict[str, Any]:
    """Set two folders, of training runs or of evaluations, beside each other.

    Returns:
        ``results``: for each split that both have and each direction, R@1 of both, their difference with the 95 %
        bootstrap interval over paired queries, and the verdict on the second; ``differences``: dotted key -> both
        values, of config, environment, protocol and store; ``known``: of which of them both folders tell (that of an
        evaluation knows only of its ``test``).

    Raises:
        VideoclipError: a folder is missing, has no results, or a file of it cannot be read; the two share no split, or
            its queries differ.
    """
    shared = sorted(_splits(first) & _splits(second))
    if not shared:
        raise DataError(f"{first} and {second} have ranks of no common split: train or evaluate both on one.")
    results = [row for split in shared for row in _paired(first, second, split)]
    a, b = _facts(first), _facts(second)
    differ = {key: [a.get(key), b.get(key)] for key in sorted(a.keys() | b.keys()) if a.get(key) != b.get(key)}
    known = sorted({key.partition(".")[0] for key in a} & {key.partition(".")[0] for key in b})
    return {"first": str(first), "second": str(second), "results": results, "differences": differ, "known": known}


def describe(found: Mapping[str, Any]) -> str:
    """A sentence for each result, then a line for each difference."""
    lines = []
    for row in found["results"]:
        low, high = row["interval"]
        lines.append(
            f"{row['split']} {row['direction']}/R@1: {row['first']:.1f} -> {row['second']:.1f} over {row['queries']} "
            f"queries; difference {row['difference']:+.1f} [{low:.1f}, {high:.1f}]: {row['verdict']}"
        )
    lines.append(
        f"no differences in what both tell of: {', '.join(found['known'])}"
        if not found["differences"]
        else "differences:"
    )
    lines += [f"  {key}: {a!r} -> {b!r}" for key, (a, b) in found["differences"].items()]
    return "\n".join([f"{found['second']} against {found['first']}", *lines]) + "\n"


def _paired(first: Path, second: Path, split: str) -> list[dict[str, Any]]:
    a, b = read_ranks(first, split), read_ranks(second, split)
    rows = []
    for direction in sorted(a.keys() & b.keys()):
        if a[direction]["queries"] != b[direction]["queries"]:
            raise DataError(
                f"{first} and {second} were tested on different queries of split {split!r} "
                f"({len(a[direction]['queries'])} and {len(b[direction]['queries'])}): they cannot be compared."
            )
        before, after = hits(a[direction]["ranks"]), hits(b[direction]["ranks"])
        interval = bootstrap_interval(after - before)
        figures = {"first": float(before.mean()), "second": float(after.mean()), "queries": len(before)}
        judged = {
            "difference": float(np.mean(after - before)),
            "interval": list(interval),
            "verdict": verdict(interval),
        }
        rows.append({"split": split, "direction": direction, **figures, **judged})
    return rows


def _splits(folder: Path) -> set[str]:
    """Return the splits that a folder has ranks of."""
    if not folder.is_dir():
        raise DataError(f"{folder} {'is not a folder' if folder.exists() else 'does not exist'}: name that of a run.")
    splits = {path.name.removesuffix(RANKS) for path in folder.glob(f"*{RANKS}")}
    if not splits:
        raise DataError(f"{folder} has no results (*{RANKS}): train or evaluate into it first.")
    return splits


def _facts(folder: Path) -> dict[str, Any]:
    """Return what a folder says about itself, by dotted key; what merely repeats results is left out."""
    facts: dict[str, Any] = {}
    if (folder / "config.yaml").is_file():
        facts |= _flat(_mapping(folder / "config.yaml"), "config")
    if (folder / "environment.json").is_file():
        facts |= _flat(_mapping(folder / "environment.json"), "environment")

    report = folder / "report.json"
    tests = dict(read_report(report)["test"]) if report.is_file() else {}
    for split in _splits(folder) - tests.keys():
        path = folder / f"{split}.json"
        tests[split] = _mapping(path) if path.is_file() else {}
    for split, found in tests.items():
        described = {key: found[key] for key in ("protocol", "store", "missing") if key in found}
        facts |= _flat(described, f"test.{split}")
    return facts


def _mapping(path: Path) -> Mapping[str, Any]:
    values = read_yaml(path) if path.suffix == ".yaml" else read_json(path)
    if not isinstance(values, Mapping):
        raise DataError(f"{path} must hold names with values, not a {type(values).__name__}.")
    return values


def _flat(values: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    """Dotted keys; a component stays whole with its options."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        name = f"{prefix}.{key}"
        flat |= _flat(value, name) if isinstance(value, Mapping) and "name" not in value else {name: value}
    return flat
