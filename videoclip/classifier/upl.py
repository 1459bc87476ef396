"""UPL: CoOp on the clips that the class texts are surest of."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from videoclip.classifier import Classifier, Clips, Lesson
from videoclip.classifier.coop import Coop
from videoclip.classifier.parts.pseudo import most_confident
from videoclip.layers import unit


class Upl(Classifier):
    """Zero-shot predictions label the most confident clips of each class; CoOp learns from them; logits are averaged.

    Source: Huang et al., UPL, 2022, arXiv:2204.03649. No label is read.

    Args:
        confident: clips a predicted class.
        runs: CoOp trainings of different seeds whose logits are averaged; the authors' 16.
        context: vectors of each.
        lr, epochs, batch: of SGD.
    """

    needs = frozenset({"unlabelled", "tower"})

    def __init__(
        self,
        confident: int = 16,
        runs: int = 16,
        context: int = 16,
        lr: float = 2e-3,
        epochs: int = 50,
        batch: int = 32,
    ) -> None:
        super().__init__()
        self.confident, self.runs = confident, runs
        self._options = {"context": context, "lr": lr, "epochs": epochs, "batch": batch}

    def fit(self, lesson: Lesson) -> None:
        """Choose the clips and train."""
        pool = lesson.pool
        logits = lesson.scale * unit(pool.pooled) @ lesson.texts.weights.T
        numbers, labels = most_confident(logits.softmax(1), self.confident)
        chosen = replace(pool[numbers], labels=labels)
        weights = []
        for run in range(self.runs):
            coop = Coop(**self._options)  # type: ignore[arg-type]
            coop.train(replace(lesson, seed=lesson.seed * self.runs + run), chosen)
            weights.append(coop.tensors["weights"])
        self.keep(scale=lesson.scale, weights=torch.stack(weights).mean(0))

    def logits(self, clips: Clips) -> Tensor:
        """(N, K), the mean of the trainings' logits."""
        return self.zero_shot(clips)
