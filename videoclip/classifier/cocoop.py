"""CoCoOp: CoOp whose vectors depend on the clip."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from videoclip.classifier import Classifier, ClassTexts, Clips, Lesson
from videoclip.classifier.parts.learning import Schedule, leaf, learn
from videoclip.classifier.parts.prompts import Layout, tower_of
from videoclip.layers import unit

CLIPS_AT_ONCE = 16
NETWORK = ("first", "first_bias", "second", "second_bias")


class Cocoop(Classifier):
    """A small network of the clip's vector moves all context vectors, so every clip has class texts of its own.

    Source: Zhou et al., CVPR 2022, arXiv:2203.05557. Predicting runs the text tower over clips x classes prompts.

    Args:
        words: first values of the vectors.
        lr, epochs, batch: of SGD.
    """

    needs = frozenset({"support", "tower"})

    def __init__(self, words: str = "a photo of a", lr: float = 2e-3, epochs: int = 10, batch: int = 1) -> None:
        super().__init__()
        self.words = words
        self.schedule = Schedule(lr, epochs, batch, "sgd", 5e-4, rate="epoch", drop_last=True)

    def fit(self, lesson: Lesson) -> None:
        """Train vectors and network."""
        shots, self.tower = lesson.shots, tower_of(lesson.texts)
        layout = self._arrange(lesson.texts)
        width = shots.pooled.shape[1]
        with torch.random.fork_rng():
            torch.manual_seed(lesson.seed)
            between = max(1, width // 16)
            first, second = nn.Linear(width, between), nn.Linear(between, self.tower.width)
        started = (self.tower.words(self.words), first.weight, first.bias, second.weight, second.bias)
        parameters = dict(zip(("vectors", *NETWORK), map(leaf, started), strict=True))
        self.keep(scale=lesson.scale)

        def backward(index: Tensor) -> None:
            logits = self.score(shots.drawn(index), parameters, layout)
            F.cross_entropy(logits, shots.known[index]).backward()

        learn(list(parameters.values()), backward, len(shots), self.schedule, lesson.seed)
        self.keep(**parameters)

    def prompts(self, rows: Tensor, parameters: dict[str, Tensor], layout: Layout) -> Tensor:
        """(n, K, L, W) of clips (n, D) of unit length."""
        first, first_bias, second, second_bias = (parameters[name] for name in NETWORK)
        moves = F.linear(F.relu(F.linear(rows, first, first_bias)), second, second_bias)
        return torch.stack([layout.filled(parameters["vectors"] + move) for move in moves])

    def score(self, pooled: Tensor, parameters: dict[str, Tensor], layout: Layout) -> Tensor:
        """Logits (n, K) of clips (n, D)."""
        rows, tower = unit(pooled), tower_of(self)
        prompts = self.prompts(rows, parameters, layout)
        sentences = tower.encode(prompts.flatten(0, 1), layout.tokens.repeat(len(rows), 1))
        classes = unit(sentences).unflatten(0, prompts.shape[:2])
        return self.tensors["scale"] * torch.einsum("nd,nkd->nk", rows, classes)

    def logits(self, clips: Clips) -> Tensor:
        """(N, K)."""
        layout = Layout.kept(tower_of(self), self.tensors)
        return torch.cat([self.score(part, self.tensors, layout) for part in clips.pooled.split(CLIPS_AT_ONCE)])

    def transferred(self, texts: ClassTexts) -> Classifier:
        """The same vectors and network with other class names."""
        other = Cocoop(self.words)
        other.tower, other.tensors = tower_of(texts), dict(self.tensors)
        other._arrange(texts)
        return other

    def _arrange(self, texts: ClassTexts) -> Layout:
        tower = tower_of(texts)
        layout = Layout.of(tower, texts.names, len(tower.words(self.words)))
        self.keep(**layout.tensors())
        return layout
