"""FPL and GRIP: prompts learned from pseudo-labels, fixed ones or ones that are renewed."""

from __future__ import annotations

from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from videoclip.classifier import Classifier, Clips, Lesson
from videoclip.classifier.parts.learning import Schedule, leaf, learn
from videoclip.classifier.parts.prompts import Layout, tower_of
from videoclip.classifier.parts.pseudo import boards
from videoclip.layers import unit


class Grip(Classifier):
    """A prefix of learned vectors, trained on clips that are labelled by the classifier itself, round after round.

    Source: Menghini et al., Enhancing CLIP with CLIP, NeurIPS 2023, arXiv:2306.01669. Round i of R takes (i + 1) N /
    (R K) clips of each class, labelled by the prompts of the round before, at first by the class texts. One round is
    FPL, with 16 clips of each class. Labelled clips, where there are some, add their loss (semi-supervised). A clip's
    place on the boards does not depend on the order of clips here.

    Args:
        rounds: R; 1 for FPL.
        confident: clips a class where R is 1.
        supervised: also learn from the labelled clips.
        context: vectors.
        lr, epochs, batch: of SGD with decay 0.1; the authors' 150 epochs a round.
    """

    needs = frozenset({"unlabelled", "tower"})

    def __init__(
        self,
        rounds: int = 10,
        confident: int = 16,
        supervised: bool = False,
        context: int = 16,
        lr: float = 0.1,
        epochs: int = 150,
        batch: int = 16,
    ) -> None:
        super().__init__()
        self.rounds, self.confident, self.supervised, self.context = rounds, confident, supervised, context
        self.schedule = Schedule(
            lr, epochs, batch, "sgd", weight_decay=0.1, rate="epoch", warm_epochs=min(5, epochs - 1), warm_lr=1e-4
        )

    def fit(self, lesson: Lesson) -> None:
        """Label, train, label again."""
        pool, count = lesson.pool, len(lesson.texts)
        weights = lesson.texts.weights
        for number in range(self.rounds):
            quota = self.confident if self.rounds == 1 else max(1, (number + 1) * len(pool) // (self.rounds * count))
            logits = lesson.scale * unit(pool.pooled) @ weights.T
            numbers, labels = boards(logits.softmax(1), quota)
            weights = self._train(lesson, replace(pool[numbers], labels=labels), lesson.seed + number)
        self.keep(scale=lesson.scale, weights=weights)

    def _train(self, lesson: Lesson, clips: Clips, seed: int) -> Tensor:
        """Class texts (K, D) of unit length, after training from random vectors."""
        tower, shots = tower_of(lesson.texts), lesson.shots if self.supervised else None
        layout = Layout.of(tower, lesson.texts.names, self.context)
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            vectors = leaf(0.02 * torch.randn(self.context, tower.width))

        def weights() -> Tensor:
            return unit(tower.encode(layout.filled(vectors), layout.tokens))

        def loss(clips: Clips, index: Tensor, classes: Tensor) -> Tensor:
            return F.cross_entropy(lesson.scale * unit(clips.drawn(index)) @ classes.T, clips.known[index])

        def backward(index: Tensor) -> None:
            classes = weights()
            total = loss(clips, index, classes)
            if shots is not None:
                total = total + loss(shots, torch.randint(len(shots), (len(index),)), classes)
            total.backward()

        learn([vectors], backward, len(clips), self.schedule, seed)
        with torch.no_grad():
            return weights()

    def logits(self, clips: Clips) -> Tensor:
        """(N, K)."""
        return self.zero_shot(clips)
