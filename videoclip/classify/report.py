"""What a bench and an evaluation show: Markdown tables and pictures. Shapes: K classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from videoclip.errors import VideoclipError
from videoclip.escape import markdown as escaped
from videoclip.escape import plotted
from videoclip.metrics import with_interval


def markdown(results: Mapping[str, Any]) -> str:
    """Accuracy by method and shots, with intervals, and the paired differences from the first method."""
    shots, rows = results["shots"], results["rows"]
    names = list(dict.fromkeys(row["method"] for row in rows))
    cells = {(row["method"], row["shots"]): row for row in rows}
    verdicts = {(d["method"], d["shots"]): d["verdict"] for d in results["differences"]}
    novel = any("novel" in row for row in rows)
    head = [f"{count} shot" + ("s" if count > 1 else "") for count in shots]
    extra = [f"novel, {shots[-1]}", "harmonic mean"] if novel else []
    columns = ["top-1, %", *head, *extra, f"than {escaped(names[0])}, {shots[-1]}", "seconds a fit"]
    lines = ["| " + " | ".join(columns) + " |", "| --- |" + " --- |" * (len(columns) - 2) + " --: |"]
    for name in names:
        own = [cells[name, count] for count in shots]
        line = [escaped(name), *(with_interval(row["accuracy"], row["interval"]) for row in own)]
        if novel:
            line += [f"{own[-1][key]:.1f}" if key in own[-1] else "" for key in ("novel", "harmonic_mean")]
        line += [verdicts.get((name, shots[-1]), ""), f"{own[-1]['seconds']:.2f}"]
        lines.append("| " + " | ".join(line) + " |")
    return "\n".join(lines) + "\n"


def plot(results: Mapping[str, Any], path: Path) -> None:
    """Draw accuracy against shots, a line for each method; those that read no labelled clip are dashed.

    Raises:
        VideoclipError: matplotlib is not installed.
    """
    figure = _figure((10, 6))
    axis = figure.subplots()
    shots = results["shots"]
    names = list(dict.fromkeys(row["method"] for row in results["rows"]))
    styles = ("o", "s", "^", "v", "D", "P", "X")
    for number, name in enumerate(names):
        own = [row for row in results["rows"] if row["method"] == name]
        style = (
            {"ls": "--", "marker": ""}
            if not own[0]["labelled"]
            else {"ls": "-", "marker": styles[number // 10 % len(styles)]}
        )
        axis.plot(shots, [row["accuracy"] for row in own], label=plotted(name), lw=1.3, ms=4, **style)
    axis.set_xscale("log", base=2)
    axis.set_xticks(shots, [str(count) for count in shots])
    axis.set(xlabel="labelled clips a class", ylabel="top-1, %")
    axis.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=120)


def plot_confusion(confusion: Tensor, labels: Sequence[str], path: Path) -> None:
    """Draw counts (K, K), rows true and columns predicted, as shares of each true class.

    Raises:
        VideoclipError: matplotlib is not installed.
    """
    names, count = [plotted(label) for label in labels], len(labels)
    side = max(4.0, min(20.0, 0.35 * count + 2))
    figure = _figure((side, side))
    axis = figure.subplots()
    shares = confusion / confusion.sum(1, keepdim=True).clamp(min=1)
    axis.imshow(shares.numpy(), cmap="Blues", vmin=0, vmax=1)
    size = 8 if count <= 30 else 5
    axis.set_xticks(range(count), names, rotation=90, fontsize=size)
    axis.set_yticks(range(count), names, fontsize=size)
    axis.set(xlabel="predicted", ylabel="true")
    if count <= 30:
        for row, column in torch.nonzero(confusion).tolist():
            shade = "white" if shares[row, column] > 0.6 else "black"
            axis.text(column, row, int(confusion[row, column]), ha="center", va="center", color=shade, fontsize=7)
    figure.savefig(path, dpi=120)


def _figure(size: tuple[float, float]) -> Any:
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise VideoclipError("The picture needs matplotlib: pip install 'videoclip[plot]'.") from error
    return Figure(figsize=size, layout="constrained")
