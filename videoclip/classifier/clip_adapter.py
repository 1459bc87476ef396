"""CLIP-Adapter: a bottleneck on the clip's vector."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from videoclip.classifier import Classifier, ClassTexts, Clips, Lesson
from videoclip.classifier.parts.learning import Schedule, epochs_by_shots, leaf, learn
from videoclip.layers import unit


class ClipAdapter(Classifier):
    """ratio x relu(up relu(down x)) + (1 - ratio) x, on the vector as it is; then cosines with the class texts.

    Source: Gao et al., IJCV 2023, arXiv:2110.04544. Their training settings are not published; these are CoOp's.

    Args:
        reduction: of the width between.
        ratio: of what the adapter adds.
        lr, epochs, batch: of SGD; epochs by the number of shots when not given: 50, 100 or 200.
    """

    def __init__(
        self,
        reduction: int = 4,
        ratio: float = 0.2,
        lr: float = 2e-3,
        epochs: int | None = None,
        batch: int = 32,
    ) -> None:
        super().__init__()
        self.reduction, self.ratio = reduction, ratio
        self._schedule = (lr, epochs, batch)

    def fit(self, lesson: Lesson) -> None:
        """Train the adapter."""
        shots, texts = lesson.shots, lesson.texts
        self.keep(scale=lesson.scale, weights=texts.weights)
        width = shots.pooled.shape[1]
        with torch.random.fork_rng():
            torch.manual_seed(lesson.seed)
            between = width // self.reduction
            down, up = (leaf(nn.Linear(*sizes, bias=False).weight) for sizes in ((width, between), (between, width)))
        lr, epochs, batch = self._schedule
        epochs = epochs or epochs_by_shots(len(shots), len(texts))
        schedule = Schedule(lr, epochs, batch, "sgd", 5e-4, rate="epoch", drop_last=True)

        def backward(index: Tensor) -> None:
            adapted = self.adapt(shots.drawn(index), down, up)
            F.cross_entropy(self.zero_shot(Clips(adapted)), shots.known[index]).backward()

        learn([down, up], backward, len(shots), schedule, lesson.seed)
        self.keep(down=down, up=up)

    def adapt(self, pooled: Tensor, down: Tensor, up: Tensor) -> Tensor:
        """Vectors (N, D) with what the adapter makes of them."""
        return self.ratio * F.relu(F.relu(pooled @ down.T) @ up.T) + (1 - self.ratio) * pooled

    def logits(self, clips: Clips) -> Tensor:
        """(N, K)."""
        return self.zero_shot(Clips(self.adapt(clips.pooled, self.tensors["down"], self.tensors["up"])))

    def transferred(self, texts: ClassTexts) -> Classifier:
        """The same adapter against other texts."""
        other = ClipAdapter(self.reduction, self.ratio)
        other.keep(**{**self.tensors, "weights": unit(texts.weights)})
        return other
