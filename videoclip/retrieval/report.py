"""A self-contained page: a table of results, and frames of hits and misses with the weight each frame got."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from videoclip.escape import html
from videoclip.files import replace_text
from videoclip.video import sampling
from videoclip.video.decode import probe, read_frames

STYLE = """
:root { color-scheme: light dark; }
body { font: 15px/1.45 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; }
table { border-collapse: collapse; } td, th { padding: .3rem .9rem .3rem 0; text-align: left; }
th { border-bottom: 1px solid #8888; } td.n { text-align: right; font-variant-numeric: tabular-nums; }
small { color: #888; } section { margin: 1.6rem 0; border-left: 4px solid #8888; padding-left: .9rem; }
section.hit { border-color: #2a9d5c; } section.miss { border-color: #d1495b; }
.bar { display: inline-block; width: 11rem; height: .7rem; background: #8883; vertical-align: middle; }
.bar i { display: block; height: 100%; background: #4878d0; }
.strip { display: flex; gap: 2px; align-items: flex-end; margin: .2rem 0 .8rem; }
.strip figure { margin: 0; width: 72px; } .strip img { width: 72px; display: block; }
.strip .w { background: #4878d0; width: 100%; } figcaption { font-size: 11px; color: #888; text-align: center; }
"""


@dataclass(frozen=True)
class Example:
    """A query and what was found for it.

    Attributes:
        text: the query.
        rank: of the right video.
        videos: id, file and weight of each frame; the right video first, then the one ranked first if another.
    """

    text: str
    rank: float
    videos: Sequence[tuple[str, Path, Sequence[float]]]


def write_report(path: str | Path, results: dict[str, Any], examples: Sequence[Example], splits: Sequence[str]) -> None:
    """Write the page.

    Args:
        results: as in the demo's ``results.json``.
        examples: hits and misses, frames decoded from their files.
        splits: keys of the rows to show as columns.
    """
    body = [
        "<h1>Moving shapes: which models see the order of frames?</h1>",
        "<p>Text-to-video R@1 in per cent, with a 95 % bootstrap interval over queries. Each video of <em>twins</em> "
        "has its time-reversed copy in the gallery: a model blind to order cannot pass 50. <em>novel</em> has pairs of "
        f"colour and shape that training never did. Seed {results['seed']}, {results['seconds']:.0f} s in all.</p>",
        _table(results["rows"], splits),
        _rerank(results["rerank"]),
        "<h2>Misses and hits of query scoring</h2>",
        "<p>The bar above a frame is its weight for the sentence. A miss is mostly the right pictures in reverse.</p>",
        *map(_example, examples),
    ]
    page = f"<!doctype html><meta charset=utf-8><title>videoclip demo</title><style>{STYLE}</style>" + "\n".join(body)
    replace_text(Path(path), page)


def _table(rows: Sequence[dict[str, Any]], splits: Sequence[str]) -> str:
    head = "".join(f"<th>{html(name)}</th>" for name in ("model", *splits, "trained parameters", "seconds"))
    lines = []
    for row in rows:
        cells = "".join(_result(row[split]) for split in splits)
        counts = f"<td class=n>{row['parameters']:,}</td><td class=n>{row['seconds']:.0f}</td>"
        lines.append(f"<tr><td>{html(row['name'])}</td>{cells}{counts}</tr>")
    return f"<table><tr>{head}</tr>{''.join(lines)}</table>"


def _result(result: dict[str, Any]) -> str:
    value, (low, high) = result["text_to_video/R@1"], result["interval"]
    bar = f"<span class=bar><i style='width:{value:.1f}%'></i></span>"
    return f"<td>{bar} {value:.1f} <small>[{low:.1f}, {high:.1f}]</small></td>"


def _rerank(result: dict[str, dict[str, float]]) -> str:
    pairs = ", ".join(
        f"{html(name)} {result['before'][name]:.1f} &rarr; {result['after'][name]:.1f}" for name in result["before"]
    )
    return f"<p>Re-ranking the run of <em>mean</em> with the untrained backbone's best frame (weight 0.4): {pairs}.</p>"


def _example(example: Example) -> str:
    hit = example.rank <= 1
    strips = []
    for place, (video, path, weights) in enumerate(example.videos):
        role = "right video" if place == 0 else "ranked first"
        strips.append(f"<small>{role}: {html(video)}</small>{_strip(path, weights)}")
    title = f"<b>{html(example.text)}</b> <small>rank of the right video: {example.rank:g}</small>"
    return f"<section class={'hit' if hit else 'miss'}>{title}<br>{''.join(strips)}</section>"


def _strip(path: Path, weights: Sequence[float]) -> str:
    wanted = sampling.uniform(probe(path).times, len(weights)).real
    frames = read_frames(path, indices=wanted)
    top = max(weights) or 1.0
    figures = [
        f"<figure><div class=w style='height:{28 * weight / top:.1f}px'></div><img src='{_data_uri(picture)}' alt=''>"
        f"<figcaption>{seconds:.2f} s &middot; {weight:.2f}</figcaption></figure>"
        for picture, seconds, weight in zip(frames.square(), frames.seconds, weights, strict=False)
    ]
    return f"<div class=strip>{''.join(figures)}</div>"


def _data_uri(picture: np.ndarray) -> str:
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
