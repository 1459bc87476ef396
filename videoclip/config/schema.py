"""What a configuration may hold.

Defaults of components live in their constructors; everything else has its default here.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PositiveFloat,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)

from videoclip.limits import LARGEST, LARGEST_COUNT, LARGEST_SEED, MOST_WORKERS


def _no_switch(value: Any) -> Any:
    if isinstance(value, bool):  # which Python and pydantic take for 0 or 1
        raise ValueError("must be a number")
    return value


Number = BeforeValidator(_no_switch)
Positive = Annotated[int, Number, Field(gt=0, le=LARGEST_COUNT)]
Rate = Annotated[float, Number, Field(gt=0, le=LARGEST)]
Weight = Annotated[float, Number, Field(ge=0, le=LARGEST)]
Share = Annotated[float, Number, Field(ge=0, lt=1)]

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
    "top-1",
    "top-5",
    "mean_class",
]


class Strict(BaseModel):
    """A section of a configuration; unknown keys are mistakes."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Component(Strict):
    """A component by name with the options of its constructor; in YAML ``mean`` or ``{name: mean, option: value}``."""

    name: str
    options: dict[str, Any] = {}

    @model_validator(mode="before")
    @classmethod
    def _from_short_form(cls, value: Any) -> Any:
        if isinstance(value, str):
            return {"name": value}
        if not isinstance(value, Mapping) or not isinstance(value.get("name"), str):
            raise ValueError("must be the name of a component, or a mapping with its name and its options")
        if "options" not in value:
            return {"name": value["name"], "options": {str(k): v for k, v in value.items() if k != "name"}}
        return value

    @model_serializer
    def _to_short_form(self) -> str | dict[str, Any]:
        return {"name": self.name, **self.options} if self.options else self.name


def _listed(value: Any) -> Any:
    return [value] if isinstance(value, str | Mapping) else value


Components = Annotated[tuple[Component, ...], BeforeValidator(_listed), Field(min_length=1)]


class BackboneConfig(Strict):
    """Which CLIP; see ``videoclip.backbone.create_backbone``."""

    name: str = "tiny"
    pretrained: str | None = None
    mean: tuple[float, float, float] | None = None
    std: tuple[PositiveFloat, PositiveFloat, PositiveFloat] | None = None
    interpolation: Literal["bicubic", "bilinear"] | None = None
    resize_mode: Literal["shortest", "longest", "squash"] | None = None

    @model_serializer(mode="wrap")
    def _without_unset(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out the parts of the image transform that are not set, as nearly always."""
        values: dict[str, Any] = serialize(self)
        return {k: v for k, v in values.items() if v is not None or k == "pretrained"}


class ModelConfig(Strict):
    """A model: which backbone, what is trained inside it, how frames become scores.

    Attributes:
        frames: how many frames a clip is reduced to.
        context: read this many neighbours on each side of a clip in its file, each by its mean frame, in place of the
            clip's own frames; for the temporal encoder ``context``.
        image_tuning, text_tuning: what is trained inside each tower, one component of ``videoclip.tuning`` or several.
            With the image tower left alone, frames can come from a store.
    """

    backbone: BackboneConfig = BackboneConfig()
    image_tuning: Components = (Component(name="none"),)
    text_tuning: Components = (Component(name="none"),)
    temporal: Component = Component(name="none")
    similarity: Component = Component(name="mean")
    frames: Positive = 12
    context: Annotated[int, Number, Field(ge=0, le=LARGEST_COUNT)] = 0

    @property
    def live_images(self) -> bool:
        """Whether the image tower differs from the backbone's, so that it needs pixels."""
        return any(tuning.name != "none" for tuning in self.image_tuning)

    @property
    def live_texts(self) -> bool:
        """Whether the text tower differs from the backbone's."""
        return any(tuning.name != "none" for tuning in self.text_tuning)


class ClassesConfig(Strict):
    """The classes of a recognition task.

    Attributes:
        list: a shipped class list (``ucf101``) or a file; the labels of the training clips, sorted, when not given.
        templates: a shipped set of prompt templates (``vificlip``), a file, a text with ``{}``, or ``none``.
        descriptions: JSON of class -> sentences.
    """

    list: str | None = None
    templates: str = "video"
    descriptions: Path | None = None


class DataConfig(Strict):
    """Where clips, captions and features are, and which splits are used for what.

    Attributes:
        manifest: JSONL file of clips with captions and split.
        store: folder of cached features; needed where ``source`` is ``store``.
        source: ``store`` reads cached features; ``videos`` runs the image tower on pixels: those that the store holds
            (``videoclip cache --pixels``), or else the files, decoded by ``train.workers``.
        sampling: which frames a training step sees: ``uniform``, or ``random`` inside equal segments; of cached ones,
            where they are cached. Validation and test always take ``uniform``.
        augmentation: of a training clip's pixels, the same for all its frames, where ``sampling`` is ``random``:
            ``crop`` takes 50 to 100 % of the area, ``crop_flip`` mirrors half of the clips as well.
        allow_missing: train and evaluate although some clips of a split are not in the store.
        validation: split that the best epoch is chosen on; ``held_out`` sets clips of the training split apart for it.
            When not given: ``val``, or ``held_out`` where the manifest has no such split.
        held_out: how many clips that are, at most a tenth of the training split.
        protocol: card that the splits are checked against, see ``videoclip.data.protocol``.
        classes: train recognition: a clip's label in place of its captions.
        synthetic: make manifest and store on first use: ``moving_shapes``. A derived file or an override that names
            another manifest or store turns this off, unless it sets ``synthetic`` too.
    """

    manifest: Path
    store: Path | None = None
    source: Literal["store", "videos"] = "store"
    train: str = "train"
    validation: str | None = None
    held_out: Positive = 500
    test: tuple[str, ...] = ("test",)
    sampling: Literal["uniform", "random"] = "uniform"
    augmentation: Literal["none", "crop", "crop_flip"] = "none"
    allow_missing: bool = False
    protocol: str = "custom"
    classes: ClassesConfig | None = None
    synthetic: Literal["moving_shapes"] | None = None

    @model_validator(mode="after")
    def _has_clips(self) -> DataConfig:
        if self.store is None and self.source == "store":
            raise ValueError("store is missing: the folder of cached features, or source: videos")
        if self.augmentation != "none" and (self.source == "store" or self.sampling != "random"):
            raise ValueError("augmentation works on pixels drawn at random: set source: videos and sampling: random")
        return self

    @model_validator(mode="after")
    def _splits_differ(self) -> DataConfig:
        if self.validation in self.test:
            raise ValueError(
                f"validation split {self.validation!r} is also a test split; the best epoch must not see the test"
            )
        if self.train in (self.validation, *self.test):
            raise ValueError(f"train split {self.train!r} is also used for validation or test")
        return self


class AverageConfig(Strict):
    """An average of the weights along a training; in YAML ``none``, ``ema``, ``beta``, or with options.

    Attributes:
        name: ``ema`` forgets exponentially; ``beta`` counts both ends most (CLIPood's beta moving average).
        decay: of ``ema``, a step.
        beta: of ``beta``, see ``videoclip.training.averaging``.
    """

    name: Literal["none", "ema", "beta"] = "none"
    decay: Share = 0.999
    beta: Rate = 0.5

    @model_validator(mode="before")
    @classmethod
    def _from_short_form(cls, value: Any) -> Any:
        return {"name": value} if isinstance(value, str) else value


class ObjectiveConfig(Strict):
    """Weights of the losses; in YAML one of them by name, or ``{pairs: 0.5, classes: 0.5, visual: 1}``.

    Attributes:
        pairs: the contrastive loss of clips with their captions, or with sentences about their class.
        classes: cross-entropy over the texts of all classes.
        visual: cross-entropy of a linear layer on the pooled frames, which the model does not keep.
    """

    pairs: Weight = 0.0
    classes: Weight = 0.0
    visual: Weight = 0.0

    @model_validator(mode="before")
    @classmethod
    def _from_short_form(cls, value: Any) -> Any:
        return {value: 1.0} if isinstance(value, str) else value

    @model_validator(mode="after")
    def _is_something(self) -> ObjectiveConfig:
        if not (self.pairs or self.classes or self.visual):
            raise ValueError("at least one weight must be above 0")
        return self


class TrainConfig(Strict):
    """How to train.

    Attributes:
        batch_size: pairs per optimiser step, over all processes and accumulation steps together.
        lr: peak learning rate of temporal encoder, similarity and temperature.
        tower_lr: peak learning rate of the towers' own weights; what tunings bring along learns at ``lr``.
        warmup: share of all steps in which the learning rates rise from zero; then they fall as a cosine to zero.
        accumulation: batches per optimiser step; each batch contrasts only its own pairs.
        objective: what is minimised; all but ``pairs`` need ``data.classes``.
        label_smoothing: share of each class target that all classes divide.
        pixel_mixup, pixel_cutmix: alpha of the Beta distribution that says how much of another clip is blended into
            each, or pasted over it, 0 for never; with both, one of them at random. Pixels and classes alone.
        loss: contrastive loss, a component of ``videoclip.loss``.
        same_pairs: what becomes of a text and a video of a batch that belong together without being a pair, because
            they share video or caption: left out (``mask``), or one more right answer (``positive``).
        mixup: weight of m2-Mixup beside the loss, see ``videoclip.loss.geodesic_mixup``.
        encode_at_once: pairs that pass the towers at a time, where a batch's activations do not fit: each part is
            encoded again for its gradient (GradCache, arXiv:2101.06983). All at once when not given.
        reversed_negatives: each text is also contrasted with its own video's frames in reverse order; for captions that
            tell an order of events (the idea of Test of Time, Bagad et al., CVPR 2023, arXiv:2301.02074).
        gradient_checkpointing: keep a tower's block inputs alone and run each block again for its gradient.
        anchor: pull of the towers' own weights back to where they started (L2-SP, Li et al., ICML 2018): half of this
            times the squared distance is added to the loss.
        distillation: share of FitCLIP's teacher-student loss (arXiv:2203.13371): the pretrained towers as they were
            loaded teach their scores of the batch; the contrastive loss has the rest. FitCLIP takes 0.0001.
        average: of the weights along the training, to be validated and kept in their place.
        workers: processes that read and decode pixels ahead; all cores but one, shared by the processes of a machine,
            when not given, and none for uncompressed pixels.
        precision: ``auto`` takes bf16 on GPUs that have it, else fp32.
        checkpoint_steps: optimiser steps between checkpoints; each minute and each epoch also ends with one.
        tracker: also write losses and metrics for TensorBoard, through accelerate.
    """

    epochs: Positive = 5
    batch_size: Positive = 128
    lr: Rate = 1e-4
    tower_lr: Rate = 1e-6
    weight_decay: Weight = 0.01
    warmup: Share = 0.1
    clip_gradient: Rate = 1.0
    accumulation: Positive = 1
    objective: ObjectiveConfig = ObjectiveConfig(pairs=1.0)
    label_smoothing: Share = 0.0
    pixel_mixup: Weight = 0.0
    pixel_cutmix: Weight = 0.0
    loss: Component = Component(name="cross_entropy")
    same_pairs: Literal["mask", "positive"] = "mask"
    mixup: Weight = 0.0
    encode_at_once: Positive | None = None
    reversed_negatives: bool = False
    gradient_checkpointing: bool = False
    anchor: Weight = 0.0
    distillation: Share = 0.0
    average: AverageConfig = AverageConfig()
    workers: Annotated[int, Number, Field(ge=0, le=MOST_WORKERS)] | None = None
    precision: Literal["auto", "fp32", "fp16", "bf16"] = "auto"
    checkpoint_steps: Positive = 200
    tracker: Literal["none", "tensorboard"] = "none"
    seed: Annotated[int, Number, Field(ge=0, le=LARGEST_SEED)] = 0


class SelectConfig(Strict):
    """Which epoch is the result.

    Attributes:
        metric: the best epoch's is highest, or lowest for ranks; ``text_to_video/R@1``, or ``top-1`` with
            ``data.classes``, when not given.
        split: ``validation``; ``test_as_published`` chooses on the first test split, as many papers did, to reproduce
            them, and labels the result so.
    """

    metric: Metric | None = None
    split: Literal["validation", "test_as_published"] = "validation"


class RunConfig(Strict):
    """Everything a training run needs."""

    data: DataConfig
    model: ModelConfig = ModelConfig()
    train: TrainConfig = TrainConfig()
    select: SelectConfig = SelectConfig()

    @property
    def metric(self) -> str:
        """What the best epoch is chosen by."""
        return self.select.metric or ("text_to_video/R@1" if self.data.classes is None else "top-1")

    @model_validator(mode="after")
    def _has_classes(self) -> RunConfig:
        train, recognition = self.train, self.data.classes is not None
        wanted = [name for name in ("classes", "visual") if getattr(train.objective, name)]
        if wanted and not recognition:
            raise ValueError(f"train.objective ({', '.join(wanted)}) needs classes: set data.classes")
        if ("/" in self.metric) == recognition:
            raise ValueError(f"select.metric {self.metric} is not one of this task: with data.classes take top-1")
        if train.distillation and not train.objective.pairs:
            raise ValueError("train.distillation teaches scores of pairs: give train.objective.pairs a weight")
        mixed = bool(train.pixel_mixup or train.pixel_cutmix)
        if mixed and (self.data.source == "store" or train.objective.pairs or not wanted):
            raise ValueError("pixel_mixup and pixel_cutmix need data.source: videos and train.objective: classes")
        return self

    @model_validator(mode="after")
    def _has_pixels(self) -> RunConfig:
        if self.model.live_images and self.data.source == "store":
            names = ", ".join(tuning.name for tuning in self.model.image_tuning)
            raise ValueError(f"model.image_tuning ({names}) runs the image tower: set data.source to videos")
        if self.model.context and self.data.source == "videos":
            raise ValueError("model.context reads neighbours from a store: set data.source to store")
        return self
