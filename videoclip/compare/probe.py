"""Does a model use time? Its scores with frames in order, reversed, shuffled, one repeated, and over frame budgets."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from videoclip.data.manifest import Clip
from videoclip.errors import DataError, VideoclipError
from videoclip.escape import markdown as escaped
from videoclip.escape import plotted
from videoclip.features import VideoFeatures, VideoPixels
from videoclip.metrics import bootstrap_interval, hits, with_interval
from videoclip.model import VIDEOS_AT_ONCE, VideoTextModel
from videoclip.store.dataset import captions, in_store
from videoclip.store.source import Source
from videoclip.training.evaluate import Evaluation, encode_texts, galleries, judge
from videoclip.training.task import backwards

BUDGETS = (1, 2, 4, 8, 16)
Frames = VideoFeatures | VideoPixels


@torch.no_grad()
def probe(model: VideoTextModel, source: Source, clips: Sequence[Clip], seed: int = 0) -> dict[str, Any]:
    """Score clips with their captions under each order of frames and each number of frames.

    Args:
        model: in evaluation mode.
        source: has the clips, as features or as pixels.
        clips: a split.
        seed: of the shuffling.

    Returns:
        ``orders`` and ``budgets``: by name, R@1 with its interval; for orders also ``change``, the mean absolute change
        of a score in per cent of the scores' deviation, and ``moved``, the interval of the paired change of R@1.

    Raises:
        DataError: the model reads neighbouring clips in place of frames.
    """
    if model.config.context:
        raise DataError("This model reads neighbouring clips in place of frames; there is no order of frames to probe.")
    clips = in_store(clips, source, allow_missing=True)
    texts = encode_texts(model, source, captions(clips))
    numbers = range(math.ceil(len(clips) / VIDEOS_AT_ONCE))

    def scores(frames: int, change: Callable[[Frames], Frames]) -> Evaluation:
        read = galleries(model, source, clips, numbers, frames)
        videos = [model.encode_video(change(video).to(model.logit_scale.device)) for video in read]
        return judge(model.similarity(texts, VideoFeatures.cat(videos)).cpu(), clips)

    orders = {name: scores(model.config.frames, change) for name, change in _orders(seed).items()}
    plain = orders["in order"]
    return {
        "frames": model.config.frames,
        "orders": {name: _row(found) | _against(found, plain) for name, found in orders.items()},
        "budgets": {str(count): _row(scores(count, lambda video: video)) for count in BUDGETS},
    }


def markdown(found: Mapping[str, Mapping[str, Any]]) -> str:
    """A table of orders and one of budgets, of several models by name."""
    orders = list(next(iter(found.values()))["orders"])
    lines = ["| text to video R@1 | " + " | ".join(orders) + " | scores moved by reversing |"]
    lines.append("| --- |" + " --- |" * len(orders) + " --: |")
    for name, result in found.items():
        cells = [_cell(result["orders"][order]) for order in orders]
        lines.append(
            f"| {escaped(name)} | " + " | ".join(cells) + f" | {result['orders']['reversed']['change']:.4f} % |"
        )
    lines += ["", "| frames | " + " | ".join(map(str, BUDGETS)) + " |", "| --- |" + " --- |" * len(BUDGETS)]
    for name, result in found.items():
        cells = [_cell(result["budgets"][str(count)]) for count in BUDGETS]
        lines.append(f"| {escaped(name)} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def plot(found: Mapping[str, Mapping[str, Any]], path: Path) -> None:
    """Draw bars of the orders and lines over the budgets.

    Raises:
        VideoclipError: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise VideoclipError("The plot needs matplotlib: pip install 'videoclip[plot]'.") from error
    figure = Figure(figsize=(11, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(3, 2), sharey=True)
    orders = list(next(iter(found.values()))["orders"])
    width = 0.8 / len(orders)
    for number, order in enumerate(orders):
        rows = [result["orders"][order] for result in found.values()]
        places = [place + (number - (len(orders) - 1) / 2) * width for place in range(len(rows))]
        left.bar(
            places, [r["R@1"] for r in rows], width, yerr=_errors(rows), label=order, capsize=2, error_kw={"lw": 0.8}
        )
    left.set_xticks(range(len(found)), list(map(plotted, found)))
    left.set(ylabel="text to video R@1, %", title="order of frames")
    left.legend(frameon=False, fontsize=8)
    for name, result in found.items():
        rows = [result["budgets"][str(count)] for count in BUDGETS]
        right.errorbar(
            BUDGETS, [r["R@1"] for r in rows], _errors(rows), label=plotted(name), capsize=2, marker="o", ms=3, lw=1.2
        )
    right.set_xscale("log", base=2)
    right.set_xticks(BUDGETS, [str(count) for count in BUDGETS])
    right.set(xlabel="frames a clip", title="frame budget")
    right.legend(frameon=False, fontsize=8)
    for axis in (left, right):
        axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=120)


def _orders(seed: int) -> dict[str, Callable[[Frames], Frames]]:
    return {
        "in order": lambda video: video,
        "reversed": backwards,
        "shuffled": lambda video: _shuffled(video, seed),
        "one repeated": lambda video: video.reordered((video.mask.sum(1, keepdim=True) // 2).expand_as(video.mask)),
    }


def _shuffled(video: Frames, seed: int) -> Frames:
    """The real frames, which come first, in a random order of their own for each clip."""
    keys = torch.rand(video.mask.shape, generator=torch.Generator().manual_seed(seed))
    return video.reordered(keys.masked_fill(~video.mask, 2).argsort(1))


def _row(found: Evaluation) -> dict[str, Any]:
    return {"R@1": found.metrics["text_to_video/R@1"], "interval": list(found.interval)}


def _against(found: Evaluation, plain: Evaluation) -> dict[str, Any]:
    moved = hits(found.ranks.text) - hits(plain.ranks.text)
    scores, before = found.scores.whole(), plain.scores.whole()
    change = 100 * float((scores - before).abs().mean() / before.std())
    return {"change": change, "moved": list(bootstrap_interval(moved))}


def _cell(row: Mapping[str, Any]) -> str:
    return with_interval(row["R@1"], row["interval"])


def _errors(rows: Sequence[Mapping[str, Any]]) -> list[list[float]]:
    return [[r["R@1"] - r["interval"][0] for r in rows], [r["interval"][1] - r["R@1"] for r in rows]]
