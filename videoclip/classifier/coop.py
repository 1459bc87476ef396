"""CoOp: learned vectors in place of a template's words."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from videoclip.classifier import Classifier, ClassTexts, Clips, Lesson
from videoclip.classifier.parts.learning import Schedule, epochs_by_shots, leaf, learn
from videoclip.classifier.parts.prompts import Layout, Position, PromptTower, tower_of
from videoclip.errors import DataError
from videoclip.layers import unit


class Coop(Classifier):
    """Context vectors before the class name, behind it or around it, through the frozen text tower.

    Source: Zhou et al., IJCV 2022, arXiv:2109.01134. What is kept are the finished class texts, and the vectors.

    Args:
        context: how many vectors.
        words: their first values, and then their number too, are the embeddings of these words; N(0, 0.02) otherwise.
        per_class: vectors of its own for each class.
        position: of the class name.
        lr, epochs, batch: of SGD; epochs by the number of shots when not given: 50, 100 or 200.
    """

    needs = frozenset({"support", "tower"})

    def __init__(
        self,
        context: int = 16,
        words: str | None = None,
        per_class: bool = False,
        position: Position = "end",
        lr: float = 2e-3,
        epochs: int | None = None,
        batch: int = 32,
    ) -> None:
        super().__init__()
        self.context, self.words, self.per_class, self.position = context, words, per_class, position
        self._schedule = (lr, epochs, batch)

    def fit(self, lesson: Lesson) -> None:
        """Train on the support."""
        self.train(lesson, lesson.shots)

    def train(self, lesson: Lesson, clips: Clips) -> None:
        """Train on clips with labels, which need not be true ones."""
        tower = tower_of(lesson.texts)
        with torch.random.fork_rng():
            torch.manual_seed(lesson.seed)
            parameters = self.initial(tower, len(lesson.texts))
        layout = Layout.of(tower, lesson.texts.names, self.vectors(parameters).shape[-2])
        lr, epochs, batch = self._schedule
        epochs = epochs or epochs_by_shots(len(clips), len(lesson.texts))
        schedule = Schedule(lr, epochs, batch, "sgd", 5e-4, rate="epoch", drop_last=True)
        plain = lesson.texts.weights

        def backward(index: Tensor) -> None:
            rows = lesson.scale * unit(clips.drawn(index))
            logits = rows @ self.weights(tower, layout, self.vectors(parameters)).T
            self.backward(parameters, logits, clips.known[index], rows @ plain.T)

        learn(list(parameters.values()), backward, len(clips), schedule, lesson.seed)
        with torch.no_grad():
            vectors = self.vectors(parameters)
            self.keep(scale=lesson.scale, vectors=vectors, weights=self.weights(tower, layout, vectors))

    def initial(self, tower: PromptTower, classes: int) -> dict[str, Tensor]:
        """What is trained, by name, each ready for gradients; ``vectors`` are (M, W), or (K, M, W)."""
        start = 0.02 * torch.randn(self.context, tower.width) if self.words is None else tower.words(self.words)
        if self.per_class:
            start = start.expand(classes, -1, -1) if self.words else 0.02 * torch.randn(classes, *start.shape)
        return {"vectors": leaf(start)}

    def vectors(self, parameters: dict[str, Tensor]) -> Tensor:
        """The context that stands in the prompts."""
        return parameters["vectors"]

    def weights(self, tower: PromptTower, layout: Layout, vectors: Tensor) -> Tensor:
        """Class texts (K, D) of unit length."""
        return unit(tower.encode(layout.filled(vectors, self.position), layout.tokens))

    def backward(self, parameters: dict[str, Tensor], logits: Tensor, labels: Tensor, zero_shot: Tensor) -> None:
        """Add the gradients of a batch's logits (n, K); ``zero_shot`` (n, K) are those of the fixed texts."""
        F.cross_entropy(logits, labels).backward()

    def logits(self, clips: Clips) -> Tensor:
        """(N, K)."""
        return self.zero_shot(clips)

    def transferred(self, texts: ClassTexts) -> Classifier:
        """The same vectors with other class names."""
        if self.per_class:
            raise DataError("coop with per_class has no vectors for new classes: fit it without.")
        other, tower, vectors = Coop(position=self.position), tower_of(texts), self.tensors["vectors"]
        parts = vectors if vectors.ndim == 3 else vectors[None]
        with torch.no_grad():
            layout = Layout.of(tower, texts.names, vectors.shape[-2])
            each = [unit(tower.encode(layout.filled(part, self.position), layout.tokens)) for part in parts]
        other.keep(scale=self.tensors["scale"], vectors=vectors, weights=average(each))
        return other


def average(weights: Sequence[Tensor]) -> Tensor:
    """Mean of class texts (K, D) of unit length, of unit length again."""
    return unit(torch.stack(list(weights)).mean(0))
