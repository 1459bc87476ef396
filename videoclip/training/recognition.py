"""Supervised recognition by the same loop: class texts as the text side, cross-entropy over classes, mixed pixels.

Shapes: B clips, K classes, P sentences of each, T frames, S pixels a side, D joint width.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from videoclip.config import TrainConfig
from videoclip.data.classes import ClassList, Sentences
from videoclip.data.manifest import Clip
from videoclip.features import TextFeatures, VideoFeatures, VideoPixels
from videoclip.files import replace_text
from videoclip.layers import masked_mean
from videoclip.metrics.classes import Recognition
from videoclip.metrics.ranks import mean_places
from videoclip.model import VideoTextModel
from videoclip.store.dataset import Batch, in_store
from videoclip.store.source import Source
from videoclip.training.evaluate import encode_gallery, encode_texts, scoring
from videoclip.training.task import ContrastiveTask, Encoded


@dataclass(frozen=True)
class Subject:
    """The classes of a training and what is said about each, equally many sentences."""

    classes: ClassList
    sentences: Sentences

    @property
    def texts(self) -> list[str]:
        """K P sentences, a class's own beside each other."""
        return [text for texts in self.sentences.texts for text in texts]

    def captioned(self, clips: Sequence[Clip], source: str) -> list[Clip]:
        """Clips whose captions are the sentences about their class."""
        numbers = [self.classes.number(str(clip.label), source) for clip in clips]
        return [
            clip.model_copy(update={"captions": self.sentences.texts[n]})
            for clip, n in zip(clips, numbers, strict=True)
        ]


class RecognitionTask(ContrastiveTask):
    """A weighted sum of up to three losses: of pairs of clips and class sentences, where those of one class belong
    together (ActionCLIP); cross-entropy over all classes' texts (ViFi-CLIP); cross-entropy of a linear layer on the
    pooled frames under dropout (M2-CLIP's visual head, there on frames before the projection).

    Args:
        model, config, teacher: see ``ContrastiveTask``.
        subject: the classes.
    """

    def __init__(
        self, model: VideoTextModel, config: TrainConfig, subject: Subject, teacher: VideoTextModel | None = None
    ) -> None:
        super().__init__(model, config, teacher)
        self._weights, self._count = config.objective, len(subject.classes)
        assert model.backbone is not None
        self._tokens = model.backbone.tokenize(subject.texts)
        self._fixed = None if model.config.live_texts else encode_texts(model, None, subject.texts)
        if config.objective.visual:
            layer = nn.Linear(model.backbone.width, self._count)
            nn.init.normal_(layer.weight, std=0.02)
            nn.init.zeros_(layer.bias)
            self.visual = nn.Sequential(nn.Dropout(0.5), layer)

    def extra_state(self) -> dict[str, Tensor]:
        """Weights that are trained beside the model."""
        return self.visual.state_dict() if self._weights.visual else {}

    def load_extra_state(self, state: dict[str, Tensor]) -> None:
        """What ``extra_state`` gave."""
        if self._weights.visual:
            self.visual.load_state_dict(state)

    def prepared(self, batch: Batch) -> Batch:
        """With pixels of two clips mixed, and targets to match, where the config says so."""
        mixup, cutmix = self._config.pixel_mixup, self._config.pixel_cutmix
        if not (mixup or cutmix) or not isinstance(batch.video, VideoPixels):
            return batch
        assert self.model.backbone is not None
        cut = bool(cutmix) and (not mixup or bool(torch.rand(()) < 0.5))
        alpha = cutmix if cut else mixup
        share = float(torch.distributions.Beta(alpha, alpha).sample())
        pixels = batch.video.pixels
        floats = pixels if pixels.is_floating_point() else self.model.backbone.preprocess.normalize(pixels)
        mixed, share = (cut_and_paste if cut else blended)(replace(batch.video, pixels=floats), share)
        own = self._targets(batch)
        return replace(batch, video=mixed, targets=share * own + (1 - share) * own.flip(0))

    def _targets(self, batch: Batch) -> Tensor:
        """(B, K): soft where pixels were mixed, and smoothed where the config says so."""
        if batch.targets is not None:
            return batch.targets
        smooth = self._config.label_smoothing
        return (1 - smooth) * F.one_hot(batch.text_ids, self._count).float() + smooth / self._count

    def _contrast(self, mine: Encoded, batch: Batch, share: float) -> Tensor:
        weights, losses = self._weights, []
        if weights.pairs:
            losses.append(weights.pairs * super()._contrast(mine, batch, share))
        if weights.classes:
            texts = self._fixed
            if texts is None:
                texts = self.model.encode_text(self._tokens)
            scores = class_scores(self.model, texts.to(mine.video.frames.device), mine.video, self._count)
            losses.append(weights.classes * F.cross_entropy(self.model.logits(scores), self._targets(batch)))
        if weights.visual:
            logits = self.visual(masked_mean(mine.video.frames, mine.video.mask))
            losses.append(weights.visual * F.cross_entropy(logits, self._targets(batch)))
        if not weights.pairs:  # else these are among that
            losses += self.model.auxiliary_losses(mine.text, mine.video) + ([self._distance()] if self._anchors else [])
        return torch.stack(losses).sum()


def class_scores(model: VideoTextModel, texts: TextFeatures, video: VideoFeatures, classes: int) -> Tensor:
    """(B, K): the mean score of each class's P sentences, of texts (K P) in order of their classes."""
    scores = model.similarity(texts, video)
    return scores.unflatten(0, (classes, -1)).mean(1).T


def blended(video: VideoPixels, share: float) -> tuple[VideoPixels, float]:
    """``share`` of each clip and the rest of the batch's clip from the other end (mixup, arXiv:1710.09412).

    Pixels (B, T, 3, S, S) are floats; where only one of the two has a frame, that frame stays.

    Returns:
        The clips, and the share.
    """
    both = (video.mask & video.mask.flip(0))[:, :, None, None, None]
    mixed = torch.lerp(video.pixels.flip(0), video.pixels, share)
    return replace(video, pixels=torch.where(both, mixed, video.pixels)), share


def cut_and_paste(video: VideoPixels, share: float) -> tuple[VideoPixels, float]:
    """A box of the other clip, the same in all frames, in the place of each clip's own (CutMix, arXiv:1905.04899).

    Returns:
        The clips, and the share of each that stayed.
    """
    height, width = video.pixels.shape[-2:]
    tall, wide = (round(size * (1 - share) ** 0.5) for size in (height, width))
    row, column = int(torch.randint(height, ())), int(torch.randint(width, ()))
    top, bottom = max(0, row - tall // 2), min(height, row - tall // 2 + tall)
    left, right = max(0, column - wide // 2), min(width, column - wide // 2 + wide)
    both = (video.mask & video.mask.flip(0))[:, :, None, None, None]
    pixels = video.pixels.clone()
    box = (..., slice(top, bottom), slice(left, right))
    pixels[box] = torch.where(both, video.pixels.flip(0)[box], video.pixels[box])
    return replace(video, pixels=pixels), 1 - (bottom - top) * (right - left) / (height * width)


@dataclass(frozen=True)
class ClassEvaluation:
    """Predictions for the clips of a split.

    Attributes:
        found: with the true classes.
        ids: of the clips.
        subject: the classes.
        missing: clips of the split that the store lacks.
    """

    found: Recognition
    ids: list[str]
    subject: Subject
    missing: int

    @property
    def metrics(self) -> dict[str, float]:
        """See ``Recognition.metrics``."""
        return self.found.metrics()

    def summary(self) -> dict[str, Any]:
        """Ready for JSON."""
        subject = self.subject
        texts = {"class_list": subject.classes.fingerprint, "sentences": subject.sentences.fingerprint}
        return {**self.found.summary(), "missing": self.missing, "classes": len(subject.classes), **texts}

    def write_ranks(self, folder: Path, split: str) -> None:
        """Keep the rank of every clip's class, so that two results can be compared clip by clip."""
        probabilities, labels = self.found.probabilities, self.found.labels
        own = probabilities.gather(1, labels[:, None])
        ranks = mean_places((probabilities > own).sum(1), (probabilities == own).sum(1) - 1)[0]
        values = {"classes": {"queries": self.ids, "ranks": ranks.tolist()}}
        replace_text(folder / f"{split}.ranks.json", json.dumps(values) + "\n")


@torch.no_grad()
def evaluate_classes(
    model: VideoTextModel, source: Source, clips: Sequence[Clip], subject: Subject, allow_missing: bool = False
) -> ClassEvaluation:
    """Predict the class of every clip from the texts of all classes.

    In a launch of several processes all must call it.

    Raises:
        DataError: clips are missing from the source and that was not allowed.
    """
    found = in_store(clips, source, allow_missing)
    gallery = encode_gallery(model, source, found)
    with scoring(model):
        texts = encode_texts(model, None, subject.texts)
        scores = class_scores(model, texts, gallery, len(subject.classes))
        probabilities = model.logits(scores).float().softmax(1).cpu()
    numbers = [subject.classes.number(str(clip.label), f"clip {clip.id!r}") for clip in found]
    judged = Recognition(probabilities, torch.tensor(numbers))
    return ClassEvaluation(judged, [clip.id for clip in found], subject, len(clips) - len(found))
