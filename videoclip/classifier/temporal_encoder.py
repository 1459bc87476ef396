"""A temporal encoder over a clip's frames, trained with the classifier."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from videoclip import registry
from videoclip.classifier import Classifier, Clips, Lesson, right
from videoclip.classifier.parts.learning import Schedule, learn
from videoclip.errors import DataError
from videoclip.features import VideoFeatures
from videoclip.layers import masked_mean, unit


class TemporalEncoder(Classifier):
    """A component of ``videoclip.temporal``, its frames averaged, against class vectors that start as the class texts.

    Both learn by cross-entropy. ``temporal: none`` trains the class vectors on mean frames alone, which is what any
    other encoder is to be compared with. The best epoch on validation clips is kept, the last one without any.

    Args:
        temporal: its name.
        options: its options.
        classes: also train the class vectors.
        lr, epochs, batch: of AdamW, falling as a cosine.
    """

    needs = frozenset({"support", "frames"})

    def __init__(
        self,
        temporal: str = "lstm",
        options: dict[str, int | float | bool | str] | None = None,
        classes: bool = True,
        lr: float = 1e-3,
        epochs: int = 60,
        batch: int = 32,
    ) -> None:
        super().__init__()
        self.temporal, self.options, self.classes = temporal, options or {}, classes
        self.schedule = Schedule(lr, epochs, batch)

    def fit(self, lesson: Lesson) -> None:
        """Train encoder and class vectors."""
        shots, validation = lesson.shots, lesson.validation
        self.keep(scale=lesson.scale)
        with torch.random.fork_rng():
            torch.manual_seed(lesson.seed)
            head = self._head(lesson.texts.weights)
        head.classes.requires_grad_(self.classes)

        def backward(index: Tensor) -> None:
            F.cross_entropy(lesson.scale * head(*_frames(shots[index])), shots.known[index]).backward()

        def score() -> float:
            assert validation is not None
            head.eval()
            with torch.no_grad():
                found = right(head(*_frames(validation)), validation.known)
            head.train()
            return found

        trained = [parameter for parameter in head.parameters() if parameter.requires_grad]
        if trained:
            best = score if validation is not None else None
            learn(trained, backward, len(shots), self.schedule, lesson.seed, score=best)
        self.keep(**{f"head.{name}": tensor for name, tensor in head.state_dict().items()})

    def logits(self, clips: Clips) -> Tensor:
        """(N, K)."""
        weights = {n.removeprefix("head."): t for n, t in self.tensors.items() if n.startswith("head.")}
        with torch.random.fork_rng():  # its random weights are replaced
            head = self._head(weights["classes"]).eval()
        scores: Tensor = functional_call(head, weights, _frames(clips))
        return self.tensors["scale"] * scores

    def _head(self, classes: Tensor) -> _Head:
        encoder = registry.create("temporal", self.temporal, self.options, width=classes.shape[1])
        return _Head(encoder, classes)


class _Head(nn.Module):
    def __init__(self, encoder: nn.Module, classes: Tensor) -> None:
        super().__init__()
        self.encoder, self.classes = encoder, nn.Parameter(classes.clone())

    def forward(self, frames: Tensor, mask: Tensor) -> Tensor:
        """Cosines (N, K) of frames (N, T, D) under a mask (N, T) with the class vectors."""
        encoded = self.encoder(VideoFeatures.from_frames(frames, mask))
        return unit(masked_mean(unit(encoded.frames), mask)) @ unit(self.classes).T


def _frames(clips: Clips) -> tuple[Tensor, Tensor]:
    if clips.frames is None or clips.mask is None:
        raise DataError("temporal_encoder reads the frames of a clip.")
    return clips.frames, clips.mask
