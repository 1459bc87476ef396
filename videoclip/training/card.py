"""The page a run leaves beside its weights: what it is, how it was made, what it scored and under which rules."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from videoclip.config import Component, RunConfig, dump
from videoclip.escape import code, markdown
from videoclip.metrics import with_interval

COLUMNS = ("R@1", "R@5", "R@10", "median_rank", "mean_rank", "tied")


def model_card(config: RunConfig, report: Mapping[str, Any]) -> str:
    """Markdown from a run's resolved config and its report."""
    model = config.model
    parts = f"temporal encoder {code(model.temporal.name)}, similarity {code(model.similarity.name)}"
    weights = markdown(model.backbone.pretrained or "its own weights")
    yaml = dump(config).rstrip()
    fence = "`" * max(3, 1 + max(map(len, re.findall("`+", yaml)), default=0))  # no value may end it
    lines = [
        f"# {markdown(model.temporal.name)} + {markdown(model.similarity.name)} on {markdown(model.backbone.name)}",
        "",
        f"A videoclip model: {parts}, {model.frames} frames a clip, over {_frames(config, report)} of "
        f"{code(model.backbone.name)} ({weights}). Tuned in the image tower: "
        f"{_names(model.image_tuning)}; in the text tower: {_names(model.text_tuning)}. "
        f"{report['parameters']:,} trained parameters.",
        "",
        "```python",
        "import videoclip as vc",
        'model = vc.load_model("THIS_FOLDER")',
        'scores = model.score(["a sentence"], ["video.mp4"])  # (texts, videos)',
        "```",
        "",
        f"Epoch {report['best_epoch'] + 1} of {config.train.epochs}, chosen by {report['selected_by']}; seed "
        f"{report['seed']}, {report['processes']} process(es).",
        "",
    ]
    lines += _recognition(report) if config.data.classes is not None else _retrieval(report)
    lines += _couples(config, report) if config.train.objective.pairs else []
    lines += ["## Config", "", f"{fence}yaml", yaml, fence]
    return "\n".join(lines) + "\n"


def _couples(config: RunConfig, report: Mapping[str, Any]) -> list[str]:
    left_out = "counted as right answers" if config.train.same_pairs == "positive" else "left out of the loss"
    repeats, what = report["repeats"], "caption" if config.data.classes is None else "class"
    return [
        f"Couples of a training batch that belong together without being a pair were {left_out}: "
        f"{repeats['same_video']} of one video, {repeats['same_caption']} of one {what}.",
        "",
    ]


def _retrieval(report: Mapping[str, Any]) -> list[str]:
    lines = [
        "| split, direction | " + " | ".join(COLUMNS) + " | texts | videos | missing | protocol |",
        "| --- |" + " --: |" * (len(COLUMNS) + 3) + " --- |",
    ]
    for split, found in report["test"].items():
        for direction in ("text_to_video", "video_to_text"):
            if f"{direction}/R@1" not in found:
                continue
            cells = [f"{found[f'{direction}/{column}']:.1f}" for column in COLUMNS]
            if direction == "text_to_video":
                cells[0] = with_interval(found["text_to_video/R@1"], found["interval"])
            counts = [str(found[name]) for name in ("texts", "videos", "missing")]
            lines.append(
                f"| {markdown(split)}, {direction} | "
                + " | ".join(cells + counts + [markdown(found["protocol"]["name"])])
                + " |"
            )
    return [
        *lines,
        "",
        "In brackets: 95 % bootstrap interval over queries. Tied items share the mean of their places.",
        "",
    ]


def _recognition(report: Mapping[str, Any]) -> list[str]:
    columns = ("top-1", "top-5", "mean_class", "calibration_error")
    lines = ["| split | " + " | ".join(columns) + " | classes | clips | missing | protocol |"]
    lines.append("| --- |" + " --: |" * (len(columns) + 3) + " --- |")
    for split, found in report["test"].items():
        cells = [f"{found[column]:.1f}" for column in columns]
        cells[0] = with_interval(found["top-1"], found["interval"])
        counts = [str(found[name]) for name in ("classes", "clips", "missing")]
        lines.append(
            f"| {markdown(split)} | " + " | ".join(cells + counts + [markdown(found["protocol"]["name"])]) + " |"
        )
    return [*lines, "", "In per cent; in brackets the 95 % bootstrap interval over clips.", ""]


def _frames(config: RunConfig, report: Mapping[str, Any]) -> str:
    return f"cached features (store {code(report['store'])})" if config.data.source == "store" else "pixels"


def _names(tunings: Sequence[Component]) -> str:
    return ", ".join(code(tuning.name) for tuning in tunings)
