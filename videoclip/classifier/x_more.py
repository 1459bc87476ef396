"""X-MoRe: captions that are like the clip have a say."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from videoclip.classifier import Classifier, ClassTexts, Clips, Lesson
from videoclip.errors import DataError
from videoclip.layers import unit


class XMore(Classifier):
    """The clip's own prediction and that of the captions nearest to it, each by its confidence.

    Source: Eom et al., X-MoRe, 2023, arXiv:2308.12555. Captions come from a bank, and are taken as they are; that of
    the authors holds hundreds of millions of pairs.

    Args:
        captions: how many of the bank's.
        weighing: ``own`` weighs both by their confidence in this clip. ``history`` is the authors': each confidence is
            divided by the sum of its kind so far, among the clips that come together, so that an answer depends on
            those before it.
    """

    needs = frozenset({"bank"})

    def __init__(self, captions: int = 16, weighing: Literal["own", "history"] = "own") -> None:
        super().__init__()
        self.captions, self.weighing = captions, weighing

    def fit(self, lesson: Lesson) -> None:
        """Keep the bank.

        Raises:
            DataError: there is none.
        """
        if lesson.bank is None or not len(lesson.bank):
            raise DataError("x_more needs a bank of captions: name a file of sentences with --bank.")
        self.keep(scale=lesson.scale, weights=lesson.texts.weights, bank=unit(lesson.bank))

    def logits(self, clips: Clips) -> Tensor:
        """(N, K) logarithms of probabilities."""
        own, rows = self.tensors, unit(clips.pooled)
        of_clip = self.zero_shot(clips).softmax(1)
        near = (rows @ own["bank"].T).topk(min(self.captions, len(own["bank"])), 1).indices
        of_captions = (own["scale"] * own["bank"][near] @ own["weights"].T).softmax(-1).mean(1)
        alpha, beta = confidence(of_clip), confidence(of_captions)
        if self.weighing == "history":
            alpha, beta = (part / part.cumsum(0).clamp(min=1e-12) for part in (alpha, beta))
        shares = torch.stack([alpha, beta], 1)
        shares = shares / shares.sum(1, keepdim=True).clamp(min=1e-12) if self.weighing == "own" else shares
        return (shares[:, :1] * of_clip + shares[:, 1:] * of_captions).clamp(min=1e-30).log()

    def transferred(self, texts: ClassTexts) -> Classifier:
        """The same bank, other classes."""
        other = XMore(self.captions, self.weighing)
        other.keep(**{**self.tensors, "weights": texts.weights})
        return other


def confidence(probabilities: Tensor) -> Tensor:
    """1 - entropy / its greatest value, of rows (N, K): (N,)."""
    entropy = -(probabilities * probabilities.clamp(min=1e-12).log()).sum(1)
    return (1 - entropy / math.log(probabilities.shape[1])).clamp(min=0)
