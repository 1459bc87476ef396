"""Score corrections against hubs, videos that are near to every sentence.

All of them look at more queries than the one that is ranked: ``dual_softmax`` and ``sinkhorn`` at the whole test set,
``qb_norm`` and ``nnn`` at a bank of other sentences. Their numbers stand beside the plain ones, never in their place.
They correct text to video; for the other direction give the transposed matrix. Shapes: Q texts, B videos, N bank texts.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from videoclip.data.manifest import Clip
from videoclip.errors import DataError
from videoclip.metrics import summarise
from videoclip.metrics.ranks import Scores, rank
from videoclip.model import VideoTextModel
from videoclip.store.dataset import captions, in_store
from videoclip.store.source import Source
from videoclip.training.evaluate import TEXTS_AT_ONCE, encode_gallery, score_rows


def corrected(
    names: Sequence[str], scores: Scores, temperature: float, bank: Scores | None = None
) -> dict[str, dict[str, Any]]:
    """Text-to-video metrics under corrections by name, each with the number of queries it looked at.

    Args:
        names: ``dual_softmax``, ``sinkhorn``, ``qb_norm``, ``nnn``.
        temperature: of ``dual_softmax`` and ``sinkhorn``.
        bank: for ``qb_norm`` and ``nnn``, see ``bank_scores``.

    Raises:
        DataError: a bank is needed and not given, the temperature is not positive and finite, or there is only one
            query.
    """
    found = {}
    for name in names:
        if name in ("dual_softmax", "sinkhorn"):
            better = (dual_softmax if name == "dual_softmax" else sinkhorn)(scores, temperature)
            looked: dict[str, Any] = {
                "looked_at": "all test queries",
                "queries": len(scores),
                "temperature": temperature,
            }
        elif bank is None:
            raise DataError(
                f"{name} needs a bank of other sentences than the queries: name a split for it (--bank train)."
            )
        else:
            better = (qb_norm if name == "qb_norm" else nnn)(scores, bank)
            looked = {"looked_at": "a bank of other sentences", "queries": len(bank)}
        ranks = rank(better, None)
        found[name] = {**summarise(ranks.text, ranks.text_tied, "text_to_video"), **looked}
    return found


def bank_scores(model: VideoTextModel, source: Source, clips: Sequence[Clip], bank: Sequence[Clip]) -> Scores:
    """Scores of the bank's captions with the videos of ``clips``.

    Raises:
        DataError: the bank holds one of those videos, so it would be the test set itself.
    """
    shared = {clip.id for clip in clips} & {clip.id for clip in bank}
    if shared:
        raise DataError(
            f"{len(shared)} clips of the bank are among the tested ones, the first is {min(shared)!r}: a bank must "
            "come from the training or validation split."
        )
    gallery, texts = in_store(clips, source, allow_missing=True), captions(bank)
    rows = score_rows(model, source, encode_gallery(model, source, gallery), texts)
    numbers = torch.arange(len(texts), device=model.logit_scale.device)
    return Scores(rows, torch.zeros_like(numbers), len(gallery), list(numbers.split(TEXTS_AT_ONCE)))


def dual_softmax(scores: Scores, temperature: float) -> Scores:
    """Scores times how much their video prefers the text to all others (CAMoE, arXiv:2109.04290).

    Args:
        temperature: scores are divided by it before the softmax over the queries.

    Raises:
        DataError: there is only one query, or the temperature is not positive and finite.
    """
    _several(scores)
    _positive("temperature", temperature)
    norm = column_logsumexp(scores, 1 / temperature)
    return scores.changed(lambda rows: rows * (rows.double() / temperature - norm).exp().float())


def sinkhorn(scores: Scores, temperature: float, iterations: int = 10) -> Scores:
    """Scores / temperature plus what makes each video, over all queries, as likely as any other.

    Sinkhorn's alternating normalisation of exp(scores / temperature), in the log domain. The rows' own normalisation
    changes no ranking and is left out of the result.

    Raises:
        DataError: there is only one query, or the temperature is not positive and finite.
    """
    _several(scores)
    _positive("temperature", temperature)
    videos = torch.zeros(scores.videos, dtype=torch.float64, device=scores.owner.device)
    for _ in range(iterations):
        balanced = scores.changed(lambda rows, v=videos: (rows.double() / temperature + v).log_softmax(1))  # type: ignore[misc]
        videos = videos - column_logsumexp(balanced, 1.0)
        videos = videos - videos.mean()
    return scores.changed(lambda rows: rows.double() / temperature + videos)


def qb_norm(scores: Scores, bank: Scores, k: int = 1, beta: float = 20.0) -> Scores:
    """Dynamic inverted softmax (QB-Norm, Bogolin et al., CVPR 2022, arXiv:2112.12777).

    A text whose best video is a hub of the bank gets exp(beta score) / sum over the bank of exp(beta score); other rows
    stay as they are, so only scores within a row may be compared.

    Args:
        bank: scores of sentences that are none of the queries, with the same videos.
        k: a video is a hub if it is among the first k of a bank sentence.
        beta: fits cosines at the authors' 20; for logits divide it by their factor.

    Raises:
        DataError: beta is not positive and finite.
    """
    _positive("beta", beta)
    hub, norm = hubs(bank, k), column_logsumexp(bank, beta)

    def change(rows: Tensor) -> Tensor:
        normalised = (beta * rows.double() - norm).exp()
        return torch.where(hub[rows.argmax(1)][:, None], normalised, rows.double())

    return scores.changed(change)


def hubs(bank: Scores, k: int = 1) -> Tensor:
    """(B,) bool, True where a video is among the first k of any bank sentence."""
    found = torch.zeros(bank.videos, dtype=torch.bool, device=bank.owner.device)
    for _, rows in bank.chunks():
        found[rows.topk(min(k, bank.videos), dim=1).indices.flatten()] = True
    return found


def nnn(scores: Scores, bank: Scores, k: int = 128, weight: float = 0.75) -> Scores:
    """Nearest neighbour normalisation (Chowdhury et al., EMNLP 2024, arXiv:2410.24114).

    Takes from every video's scores ``weight`` times the mean of its k best scores with the bank's sentences.
    """
    best = torch.empty(0, bank.videos, device=bank.owner.device)
    for _, rows in bank.chunks():
        joined = torch.cat([best, rows])
        best = joined.topk(min(k, len(joined)), dim=0).values
    bias = weight * best.double().mean(0)
    return scores.changed(lambda rows: (rows.double() - bias).float())


def column_logsumexp(scores: Scores, factor: float) -> Tensor:
    """(B,) float64: logarithm of the sum over all texts of exp(factor x score)."""
    highest = torch.full((scores.videos,), -torch.inf, dtype=torch.float64, device=scores.owner.device)
    for _, rows in scores.chunks():
        highest = torch.maximum(highest, factor * rows.double().amax(0))
    highest = scores.join(highest, "max")
    total = torch.zeros_like(highest)
    for _, rows in scores.chunks():
        total += (factor * rows.double() - highest).exp().sum(0)
    return highest + scores.join(total, "sum").log()


def _positive(name: str, value: float) -> None:
    # The inverse too: a temperature of 1e-320 makes every logit infinite.
    if not (value > 0 and math.isfinite(value) and math.isfinite(1 / value)):
        raise DataError(f"{name} must be a positive finite number, not {value}.")


def _several(scores: Scores) -> None:
    if len(scores) < 2:
        raise DataError("Dual softmax and Sinkhorn normalise over all queries: with one query there is nothing to do.")
