"""What a configuration may hold.

Defaults of components live in their constructors; everything else has its default here.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_serializer, model_validator

Positive = Annotated[int, Field(gt=0)]


Metric = Literal[
    "text_to_video/R@1",
    "text_to_video/R@5",
    "text_to_video/R@10",
    "text_to_video/median_rank",
    "text_to_video/mean_rank",
    "video_to_text/R@1",
    "video_to_text/R@5",
    "video_to_text/R@10",
    "video_to_text/median_rank",
    "video_to_text/mean_rank",
]


class Strict(BaseModel):
    """A section of a configuration; unknown keys are mistakes."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Component(Strict):
    """A component by name with the options of its constructor; in YAML ``mean`` or ``{name: mean, option: value}``."""

    name: str
    options: dict[str, Any] = {}

    @model_validator(mode="before")
    @classmethod
    def _from_short_form(cls, value: Any) -> Any:
        if isinstance(value, str):
            return {"name": value}
        if isinstance(value, Mapping) and "options" not in value:
            return {"name": value.get("name", ""), "options": {k: v for k, v in value.items() if k != "name"}}
        return value

    @model_serializer
    def _to_short_form(self) -> str | dict[str, Any]:
        return {"name": self.name, **self.options} if self.options else self.name


class BackboneConfig(Strict):
    """Which CLIP; see ``videoclip.backbone.create_backbone``."""

    name: str = "tiny"
    pretrained: str | None = None


class ModelConfig(Strict):
    """A model: which backbone, what is trained inside it, how frames become scores.

    Attributes:
        frames: how many frames a clip is reduced to.
        context: read this many neighbours on each side of a clip in its file, each by its mean frame, in place of the
            clip's own frames; for the temporal encoder ``context``.
        text_tuning: what is trained inside the text tower. The image tower stays frozen: frames come from a store.
    """

    backbone: BackboneConfig = BackboneConfig()
    text_tuning: Component = Component(name="none")
    temporal: Component = Component(name="none")
    similarity: Component = Component(name="mean")
    frames: Positive = 12
    context: Annotated[int, Field(ge=0)] = 0


class DataConfig(Strict):
    """Where clips, captions and features are, and which splits are used for what.

    Attributes:
        manifest: JSONL file of clips with captions and split.
        store: folder of cached features.
        sampling: which of the cached frames a training step sees: ``uniform``, or ``random`` inside equal segments.
            Validation and test always take ``uniform``.
        allow_missing: train and evaluate although some clips of a split are not in the store.
        validation: split that the best epoch is chosen on; ``held_out`` sets clips of the training split apart for it.
            When not given: ``val``, or ``held_out`` where the manifest has no such split.
        held_out: how many clips that are, at most a tenth of the training split.
        protocol: card that the splits are checked against, see ``videoclip.data.protocol``.
        synthetic: make manifest and store on first use: ``moving_shapes``.
    """

    manifest: Path
    store: Path
    train: str = "train"
    validation: str | None = None
    held_out: Positive = 500
    test: tuple[str, ...] = ("test",)
    sampling: Literal["uniform", "random"] = "uniform"
    allow_missing: bool = False
    protocol: str = "custom"
    synthetic: Literal["moving_shapes"] | None = None

    @model_validator(mode="after")
    def _splits_differ(self) -> DataConfig:
        if self.validation in self.test:
            raise ValueError(
                f"validation split {self.validation!r} is also a test split; the best epoch must not see the test"
            )
        if self.train in (self.validation, *self.test):
            raise ValueError(f"train split {self.train!r} is also used for validation or test")
        return self


class TrainConfig(Strict):
    """How to train.

    Attributes:
        batch_size: pairs per optimiser step, over all processes and accumulation steps together.
        lr: peak learning rate of temporal encoder, similarity and temperature.
        tower_lr: peak learning rate inside the towers.
        warmup: share of all steps in which the learning rates rise from zero; then they fall as a cosine to zero.
        accumulation: batches per optimiser step; each batch contrasts only its own pairs.
        loss: contrastive loss, a component of ``videoclip.loss``.
        same_pairs: what becomes of a text and a video of a batch that belong together without being a pair, because
            they share video or caption: left out (``mask``), or one more right answer (``positive``).
        mixup: weight of m2-Mixup beside the loss, see ``videoclip.loss.geodesic_mixup``.
        encode_at_once: pairs that pass the towers at a time, where a batch's activations do not fit: each part is
            encoded again for its gradient (GradCache, arXiv:2101.06983). All at once when not given.
        reversed_negatives: each text is also contrasted with its own video's frames in reverse order; for captions that
            tell an order of events (the idea of Test of Time, Bagad et al., CVPR 2023, arXiv:2301.02074).
        precision: ``auto`` takes bf16 on GPUs that have it, else fp32.
        checkpoint_steps: optimiser steps between checkpoints; each epoch also ends with one.
        tracker: also write losses and metrics for TensorBoard, through accelerate.
    """

    epochs: Positive = 5
    batch_size: Positive = 128
    lr: Annotated[float, Field(gt=0)] = 1e-4
    tower_lr: Annotated[float, Field(gt=0)] = 1e-6
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    warmup: Annotated[float, Field(ge=0, lt=1)] = 0.1
    clip_gradient: Annotated[float, Field(gt=0)] = 1.0
    accumulation: Positive = 1
    loss: Component = Component(name="cross_entropy")
    same_pairs: Literal["mask", "positive"] = "mask"
    mixup: Annotated[float, Field(ge=0)] = 0.0
    encode_at_once: Positive | None = None
    reversed_negatives: bool = False
    precision: Literal["auto", "fp32", "fp16", "bf16"] = "auto"
    checkpoint_steps: Positive = 200
    tracker: Literal["none", "tensorboard"] = "none"
    seed: Annotated[int, Field(ge=0)] = 0


class SelectConfig(Strict):
    """Which epoch is the result.

    Attributes:
        metric: the best epoch's is highest, or lowest for ranks.
        split: ``validation``; ``test_as_published`` chooses on the first test split, as many papers did, to reproduce
            them, and labels the result so.
    """

    metric: Metric = "text_to_video/R@1"
    split: Literal["validation", "test_as_published"] = "validation"


class RunConfig(Strict):
    """Everything a training run needs."""

    data: DataConfig
    model: ModelConfig = ModelConfig()
    train: TrainConfig = TrainConfig()
    select: SelectConfig = SelectConfig()
