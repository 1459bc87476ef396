"""nDCG and mAP for relevance that is graded or shared by several items.

Items of equal score have no order: both take the mean over all orders that the ties allow (McSherry and Najork, ECIR
2008). Shapes: Q queries, N items.
"""

from __future__ import annotations

import numpy as np
from torch import Tensor


def graded_metrics(scores: Tensor, relevance: Tensor) -> dict[str, float]:
    """nDCG and mAP over queries, in per cent.

    Args:
        scores: (Q, N).
        relevance: (Q, N) of at least 0; gain is the relevance itself, for mAP whatever is above 0 is relevant.
            Queries to which nothing is relevant are left out.
    """
    pairs = zip(scores.float().cpu().numpy(), relevance.double().cpu().numpy(), strict=True)
    found = [_one_query(row, gains) for row, gains in pairs if gains.any()]
    ndcg, precision = np.mean(found, axis=0) if found else (np.nan, np.nan)
    return {"nDCG": 100 * float(ndcg), "mAP": 100 * float(precision)}


def _one_query(scores: np.ndarray, gains: np.ndarray) -> tuple[float, float]:
    order = np.argsort(-scores, kind="stable")
    discount = 1 / np.log2(np.arange(2, len(scores) + 2))
    ends = np.flatnonzero(np.diff(scores[order], append=np.nan) != 0) + 1
    starts = np.concatenate([[0], ends[:-1]])
    gain = precision = relevant_before = 0.0
    for start, end in zip(starts, ends, strict=True):
        tied = gains[order[start:end]]
        gain += tied.mean() * discount[start:end].sum()
        relevant, count = int((tied > 0).sum()), end - start
        if relevant:
            earlier = np.arange(count) * (relevant - 1) / max(1, count - 1)
            precision += relevant / count * ((relevant_before + 1 + earlier) / np.arange(start + 1, end + 1)).sum()
        relevant_before += relevant
    return float(gain / (np.sort(gains)[::-1] @ discount)), float(precision / (gains > 0).sum())
