"""Retrieval metrics: exact ranks under a stated tie rule, recalls, bootstrap intervals.

Tie rule: ranks are counted in float32 as 1 + (how many score higher) + (how many others score the same) / 2, the
mean of the places that the tied items share. R@k is the share of queries with rank at most k. The share of queries
whose answer ties with something else is reported. Shapes: Q texts, B videos.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from videoclip.errors import DataError

RECALL_AT = (1, 5, 10)


def text_to_video_ranks(scores: Tensor, video_of_text: Tensor, chunk: int = 4096) -> tuple[Tensor, Tensor]:
    """Rank of each text's own video.

    Args:
        scores: (Q, B), a row a text.
        video_of_text: (Q,) column of each text's video.
        chunk: rows compared at a time.

    Returns:
        Ranks (Q,) float64, from 1; and (Q,) bool, True where the answer ties with another video.

    Raises:
        DataError: a score is NaN.
    """
    if torch.isnan(scores).any():
        raise DataError("The score matrix holds NaN: the model or the features are broken; ranks would be meaningless.")
    scores = scores.float()
    higher, equal = [], []
    for start in range(0, len(scores), chunk):
        rows = scores[start : start + chunk]
        own = rows.gather(1, video_of_text[start : start + chunk, None])
        higher.append((rows > own).sum(1))
        equal.append((rows == own).sum(1) - 1)
    ties = torch.cat(equal).double()
    return 1 + torch.cat(higher).double() + ties / 2, ties > 0


def best_caption_scores(scores: Tensor, video_of_text: Tensor, videos: int) -> Tensor:
    """(B, B): row v holds, for every video w, the score of video v with the best caption of video w.

    The video-to-text rule of CLIP4Clip: the video's best own caption competes with every other video's best one.
    """
    best = scores.new_full((videos, videos), -torch.inf)
    index = video_of_text[:, None].expand(-1, videos)
    return best.scatter_reduce(0, index, scores, "amax").T


def retrieval_metrics(scores: Tensor | np.ndarray, video_of_text: Sequence[int] | Tensor) -> dict[str, float]:
    """Recalls and ranks in both directions; bring your own matrix.

    Args:
        scores: (Q, B), rows are texts, columns videos; every video needs at least one text.
        video_of_text: (Q,) column of each text's video.

    Returns:
        ``text_to_video/R@1`` and so on, in per cent; ``median_rank``, ``mean_rank``, and ``tied`` (per cent).
        Video to text follows ``best_caption``: see ``best_caption_scores``.

    Raises:
        DataError: shapes or indices do not fit, a video has no text, or a score is NaN.
    """
    matrix = torch.as_tensor(scores)
    owner = torch.as_tensor(video_of_text, dtype=torch.long, device=matrix.device)
    _check(matrix, owner)
    videos = matrix.shape[1]
    metrics = summarise(*text_to_video_ranks(matrix, owner), "text_to_video")
    columns = torch.arange(videos, device=matrix.device)
    reverse = best_caption_scores(matrix.float(), owner, videos)
    return metrics | summarise(*text_to_video_ranks(reverse, columns), "video_to_text")


def summarise(ranks: Tensor, tied: Tensor, direction: str) -> dict[str, float]:
    """Recalls, median and mean of ranks (Q,), and the share of ties, under keys that begin with ``direction``."""
    recalls = {f"{direction}/R@{k}": 100 * float((ranks <= k).double().mean()) for k in RECALL_AT}
    return recalls | {
        f"{direction}/median_rank": float(np.median(ranks.cpu().numpy())),
        f"{direction}/mean_rank": float(ranks.mean()),
        f"{direction}/tied": 100 * float(tied.double().mean()),
    }


def bootstrap_interval(values: Sequence[float] | np.ndarray, seed: int = 0, samples: int = 2000) -> tuple[float, float]:
    """95 % interval of the mean of ``values`` (one per query): percentiles over resampled queries."""
    array = np.asarray(values, float)
    generator = np.random.default_rng(seed)
    means = [array[generator.integers(len(array), size=len(array))].mean() for _ in range(samples)]
    low, high = np.percentile(means, [2.5, 97.5])
    return float(low), float(high)


def with_interval(value: float, interval: Sequence[float]) -> str:
    """``41.7 [36.0, 47.0]``: a figure and its interval, as tables show them."""
    low, high = interval
    return f"{value:.1f} [{low:.1f}, {high:.1f}]"


def verdict(values: np.ndarray, others: np.ndarray, seed: int = 0) -> str:
    """``better``, ``worse`` or ``cannot tell``: whether values are higher than others, query by query.

    They are called so only where the 95 % bootstrap interval of the mean of the paired differences excludes zero.
    """
    low, high = bootstrap_interval(values - others, seed)
    return "better" if low > 0 else "worse" if high < 0 else "cannot tell"


def _check(scores: Tensor, video_of_text: Tensor) -> None:
    if scores.ndim != 2 or video_of_text.shape != scores.shape[:1]:
        raise DataError(
            f"scores must be (texts, videos) with one entry of video_of_text per text; got scores "
            f"{tuple(scores.shape)} and {len(video_of_text)} entries."
        )
    videos = scores.shape[1]
    if len(video_of_text) and not 0 <= int(video_of_text.min()) <= int(video_of_text.max()) < videos:
        raise DataError(f"video_of_text names a column outside 0..{videos - 1}.")
    silent = videos - len(torch.unique(video_of_text))
    if silent:
        raise DataError(f"{silent} of {videos} videos have no text: leave them out, or rank text to video alone.")
