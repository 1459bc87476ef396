"""Re-ranking an initial run with CLIP's best frame (CLIPRerank, arXiv:2401.08449)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Literal

import torch

from videoclip.backbone import Backbone
from videoclip.errors import DataError
from videoclip.registry import create
from videoclip.retrieval.runs import Run
from videoclip.store import FeatureStore

Scaling = Literal["none", "minmax"]


@torch.no_grad()
def rerank(
    run: Run,
    queries: Mapping[str, str],
    store: FeatureStore,
    backbone: Backbone,
    weight: float = 0.4,
    depth: int = 1000,
    scaling: Scaling = "minmax",
) -> Run:
    """Score videos anew: weight x initial score + (1 - weight) x largest cosine of the query with any frame.

    Equal scores keep the order of the initial run.

    Args:
        run: the initial ranking.
        queries: text of every query in the run.
        store: has the frames of the first ``depth`` videos of every query.
        backbone: the one that made the store.
        weight: 1 keeps the initial order, 0 is CLIP alone; the method's own is 0.4.
        depth: how many videos of each query are re-ranked; the others keep their order below them.
        scaling: ``minmax`` maps both scores of a query's videos to [0, 1] before they are mixed, whatever scale the
            run has; ``none`` mixes them as they are. The method's own scaling is not known.

    Raises:
        DataError: weight or depth is out of range, a query has no text, videos are missing from the store, or a score
            is not finite.
    """
    if not 0 <= weight <= 1 or depth < 1:
        raise DataError(f"weight must lie between 0 and 1, and depth be at least 1; got {weight} and {depth}.")
    if not run:
        raise DataError("The run has no query.")
    missing = [query for query in run if query not in queries]
    if missing:
        raise DataError(f"{len(missing)} of {len(run)} queries of the run have no text, the first is {missing[0]!r}.")
    absent = {video for entries in run.values() for video, _ in entries[:depth] if video not in store}
    if absent:
        raise DataError(
            f"{store.folder}: {len(absent)} videos of the run are not in the store, such as {min(absent)!r}."
        )
    store.check_backbone(backbone)
    similarity = create("similarity", "max_frame", width=backbone.width)
    device = next(backbone.text_tower.parameters()).device
    text = backbone.encode_text(backbone.tokenize([queries[query] for query in run]).to(device)).to("cpu")
    result: Run = {}
    for number, (query, entries) in enumerate(run.items()):
        head, tail = entries[:depth], entries[depth:]
        frames = similarity(text[number : number + 1], store.features([video for video, _ in head]))[0].tolist()
        mixed = mix([score for _, score in head], frames, weight, scaling)
        _check_finite(query, head, frames, mixed)
        ordered = sorted(zip([video for video, _ in head], mixed, strict=True), key=lambda entry: -entry[1])
        floor = min(mixed)
        result[query] = ordered + [(video, floor - place) for place, (video, _) in enumerate(tail, 1)]
    return result


def _check_finite(
    query: str, head: Sequence[tuple[str, float]], frames: Sequence[float], mixed: Sequence[float]
) -> None:
    """Refuse all three, as scaling to [0, 1] can hide a NaN: no comparison with it holds."""
    for (video, initial), frame, score in zip(head, frames, mixed, strict=True):
        if not all(map(math.isfinite, (initial, frame, score))):
            raise DataError(
                f"Query {query!r}, video {video!r}: the initial score is {initial}, the best frame's cosine {frame}. "
                "Both must be finite: correct the run, or cache the video again."
            )


def mix(initial: Sequence[float], frames: Sequence[float], weight: float, scaling: Scaling) -> list[float]:
    """The re-ranking score of one query's videos."""
    if scaling == "minmax":
        initial, frames = _minmax(initial), _minmax(frames)
    return [weight * m + (1 - weight) * s for m, s in zip(initial, frames, strict=True)]


def _minmax(values: Sequence[float]) -> list[float]:
    low, high = min(values), max(values)
    return [(value - low) / (high - low) if high > low else 0.0 for value in values]
