"""Retrieval metrics: exact ranks under a stated tie rule (``ranks``), recalls, nDCG and mAP, bootstrap intervals.

R@k is the share of queries with rank at most k. The share of queries whose answer ties with something else is
reported. Shapes: Q texts, B videos.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from videoclip.errors import DataError
from videoclip.metrics.bootstrap import bootstrap_interval, verdict, with_interval
from videoclip.metrics.graded import graded_metrics
from videoclip.metrics.ranks import Ranks, Scores, VideoToText, rank

__all__ = ["bootstrap_interval", "graded_metrics", "hits", "retrieval_metrics", "summarise", "verdict", "with_interval"]

RECALL_AT = (1, 5, 10)


def retrieval_metrics(
    scores: Tensor | np.ndarray,
    video_of_text: Sequence[int] | Tensor,
    video_to_text: VideoToText | None = "best_caption",
    relevance: Tensor | np.ndarray | None = None,
    chunk: int = 4096,
) -> dict[str, float]:
    """Recalls and ranks in both directions; bring your own matrix.

    Args:
        scores: (Q, B), rows are texts, columns videos; every video needs a text, unless only texts are ranked.
        video_of_text: (Q,) column of each text's video.
        video_to_text: the rule for videos with several captions, see ``ranks.rank``; None ranks texts alone.
        relevance: (Q, B) of texts and videos, for nDCG and mAP in both directions.
        chunk: texts compared at a time; the result does not depend on it.

    Returns:
        ``text_to_video/R@1`` and so on, in per cent; ``median_rank``, ``mean_rank``, and ``tied`` (per cent).

    Raises:
        DataError: shapes or indices do not fit, a video has no text, or a score is NaN.
    """
    matrix = torch.as_tensor(scores)
    owner = torch.as_tensor(video_of_text, dtype=torch.long, device=matrix.device)
    _check(matrix, owner, video_to_text is None)
    metrics = metrics_of(rank(Scores.of(matrix, owner, chunk), video_to_text))
    return metrics if relevance is None else metrics | relevance_metrics(matrix, relevance)


def relevance_metrics(scores: Tensor, relevance: Tensor | np.ndarray) -> dict[str, float]:
    """Compute nDCG and mAP in both directions, see ``graded_metrics``, for relevance (Q, B) of texts and videos.

    Raises:
        DataError: see ``check_relevance``.
    """
    check_relevance(relevance, tuple(scores.shape))
    relevant = torch.as_tensor(relevance, device=scores.device)
    there, back = graded_metrics(scores, relevant), graded_metrics(scores.T, relevant.T)
    return {f"text_to_video/{k}": v for k, v in there.items()} | {f"video_to_text/{k}": v for k, v in back.items()}


def check_relevance(relevance: Tensor | np.ndarray, shape: tuple[int, ...]) -> None:
    """Refuse relevance that is not one finite number of at least 0 per text and video, (Q, B).

    Raises:
        DataError: it has another shape, other values, or is zero everywhere.
    """
    values = np.asarray(relevance.cpu() if isinstance(relevance, Tensor) else relevance)
    if values.dtype.kind not in "biuf" or values.shape != shape:
        raise DataError(
            f"Relevance must be an array of numbers (texts, videos) = {shape}; it is {values.dtype} {values.shape}."
        )
    wrong = ~(np.isfinite(values) & (values >= 0))
    if wrong.any():
        text, video = np.argwhere(wrong)[0].tolist()
        raise DataError(
            f"Relevance must be finite and at least 0; text {text} and video {video} have {values[text, video]}."
        )
    if not values.any():
        raise DataError("Relevance is 0 everywhere: there is nothing to find.")


def metrics_of(ranks: Ranks) -> dict[str, float]:
    """What ranks amount to, in both directions where both were counted."""
    metrics = summarise(ranks.text, ranks.text_tied, "text_to_video")
    if ranks.video is not None and ranks.video_tied is not None:
        metrics |= summarise(ranks.video, ranks.video_tied, "video_to_text")
    return metrics


def summarise(ranks: Tensor, tied: Tensor, direction: str) -> dict[str, float]:
    """Recalls, median and mean of ranks (Q,), and the share of ties, under keys that begin with ``direction``."""
    recalls = {f"{direction}/R@{k}": 100 * int((ranks <= k).sum()) / len(ranks) for k in RECALL_AT}
    return recalls | {
        f"{direction}/median_rank": float(np.median(ranks.cpu().numpy())),
        f"{direction}/mean_rank": float(ranks.mean()),
        f"{direction}/tied": 100 * int(tied.sum()) / len(tied),
    }


def hits(ranks: Sequence[float] | Tensor | np.ndarray, k: int = 1) -> np.ndarray:
    """100 where a rank (Q,) is at most k, 0 elsewhere: their mean is R@k."""
    return 100.0 * (np.asarray(ranks) <= k)


def _check(scores: Tensor, video_of_text: Tensor, texts_alone: bool) -> None:
    if scores.ndim != 2 or video_of_text.shape != scores.shape[:1] or not len(scores):
        raise DataError(
            f"scores must be (texts, videos) with one entry of video_of_text per text; got scores "
            f"{tuple(scores.shape)} and {len(video_of_text)} entries."
        )
    videos = scores.shape[1]
    if not 0 <= int(video_of_text.min()) <= int(video_of_text.max()) < videos:
        raise DataError(f"video_of_text names a column outside 0..{videos - 1}.")
    silent = videos - len(torch.unique(video_of_text))
    if silent and not texts_alone:
        raise DataError(f"{silent} of {videos} videos have no text: leave them out, or rank text to video alone.")
