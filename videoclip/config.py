"""Configurations: pydantic models filled from YAML files and ``a.b=value`` arguments.

Every mistake is told at once, each with its dotted key, what was expected and the nearest valid name. Defaults of
components live in their constructors; everything else has its default here. A file may name one ``base:`` file,
relative to itself, whose values it overrides.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_serializer, model_validator

from videoclip import registry
from videoclip.errors import ConfigError

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


C = TypeVar("C", bound=Strict)


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> RunConfig:
    """Read a YAML file, apply ``a.b=value`` overrides, check everything.

    Raises:
        ConfigError: listing every mistake.
    """
    path = find_config(path)
    values = _read(path)
    if "base" in values:
        base = path.parent / str(values.pop("base"))
        below = _read(base)
        if "base" in below:
            raise ConfigError(str(base), ["base: a base file may not have a base itself"])
        values = _merge(below, values)
    problems = []
    for override in overrides:
        key, equals, text = override.partition("=")
        if not equals:
            problems.append(f"{override}: write overrides as a.b=value")
            continue
        values = _merge(values, _nested(key.split("."), _parse(text)))
    return parse(values, RunConfig, str(path), problems)


def with_model(base: RunConfig, path: str | Path) -> RunConfig:
    """A run of ``base`` with the temporal encoder, similarity and context of another file's ``model`` section.

    Backbone, tuning, data and training stay those of ``base``, so that models meet on equal terms.

    Raises:
        ConfigError: listing every mistake of that section.
    """
    found = find_config(path)
    given = parse(_read(found).get("model", {}), ModelConfig, f"{found}: model")
    head = {"temporal": given.temporal, "similarity": given.similarity, "context": given.context}
    return base.model_copy(update={"model": base.model.model_copy(update=head)})


def parse(values: Any, kind: type[C], source: str, problems: Sequence[str] = ()) -> C:
    """Check plain values against a model; ``problems`` are mistakes found before.

    Raises:
        ConfigError: listing every mistake.
    """
    found = list(problems) + _check_components(values, kind)
    try:
        config = kind.model_validate(values)
    except ValidationError as error:
        found += [_sentence(e, kind) for e in error.errors()]
    if found:
        raise ConfigError(source, found)
    return config


def load_as(path: str | Path, kind: type[C]) -> C:
    """Read a YAML file, or a shipped one by name, as another kind of configuration than a run.

    Raises:
        ConfigError: listing every mistake.
    """
    found = find_config(path)
    return parse(_read(found), kind, str(found))


def dump(config: Strict) -> str:
    """The configuration as YAML that ``load_config`` reads back to the same values."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)


def shipped(folder: str) -> list[str]:
    """Names of the shipped configs of a folder, sorted."""
    places = (place / folder for place in _shipped_folders())
    return sorted({path.stem for place in places for path in place.glob("*.yaml")})


def find_config(path: str | Path) -> Path:
    """``path`` itself, or the shipped config of that name: ``demo/mean`` is ``configs/demo/mean.yaml``.

    Raises:
        ConfigError: there is no such file.
    """
    for candidate in (Path(path), *(folder / f"{path}.yaml" for folder in _shipped_folders())):
        if candidate.is_file():
            return candidate
    raise ConfigError(str(path), ["no such file, and no shipped config of that name"])


def _shipped_folders() -> list[Path]:
    """Of an installed package, and of a checkout."""
    package = Path(__file__).parent
    return [package / "configs", package.parent / "configs"]


def _read(path: Path) -> dict[str, Any]:
    try:
        values = yaml.safe_load(path.read_text())
    except (OSError, yaml.YAMLError) as error:
        raise ConfigError(str(path), [f"cannot be read as YAML: {' '.join(str(error).split())}"]) from error
    if not isinstance(values, dict):
        raise ConfigError(str(path), ["must hold a mapping of sections, such as data:, model: and train:"])
    return values


def _parse(text: str) -> Any:
    try:
        return float(text) if _is_number(text) and not text.lstrip("+-").isdigit() else yaml.safe_load(text)
    except yaml.YAMLError:
        return text


def _is_number(text: str) -> bool:
    """Whether Python reads a number: YAML takes 1e-3 for a string."""
    try:
        float(text)
    except ValueError:
        return False
    return True


def _nested(keys: Sequence[str], value: Any) -> dict[str, Any]:
    for key in reversed(keys):
        value = {key: value}
    return dict(value)


def _merge(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """``above`` over ``below``; a component that changes its name drops the options of the one it replaces."""
    merged = dict(below)
    for key, value in above.items():
        old = merged.get(key)
        if isinstance(old, str) and isinstance(value, Mapping) and "name" not in value:
            old = {"name": old}  # an option for a component in its short form
        replaces = isinstance(value, Mapping) and value.get("name") and key != "backbone"
        merged[key] = (
            _merge(old, value) if isinstance(old, Mapping) and isinstance(value, Mapping) and not replaces else value
        )
    return merged


def _check_components(values: Any, kind: type[Strict]) -> list[str]:
    """Names and options of every component, checked against the registry before pydantic sees the rest."""
    kinds: dict[str, registry.Kind] = {
        "model.temporal": "temporal",
        "model.similarity": "similarity",
        "model.text_tuning": "tuning",
        "train.loss": "loss",
    }
    problems = []
    for key, component in kinds.items():
        section, _, name = key.partition(".")
        shown = key if kind is RunConfig else name
        within = values.get(section) if kind is RunConfig and isinstance(values, Mapping) else values
        if (
            kind in (RunConfig, ModelConfig)
            and isinstance(within, Mapping)
            and isinstance(within.get(name), str | Mapping)
        ):
            parsed = Component.model_validate(within[name])
            problems += registry.check_component(component, parsed.name, parsed.options, shown)
    return problems


def _sentence(error: Any, kind: type[Strict]) -> str:
    key = ".".join(str(part) for part in error["loc"]) or "the whole"
    if error["type"] == "extra_forbidden":
        return registry.unknown(key, str(error["loc"][-1]), _names(kind, error["loc"][:-1]), "no such key")
    if error["type"] == "missing":
        return f"{key}: missing"
    message = error["msg"].removeprefix("Value error, ")
    shown = "" if isinstance(error["input"], Mapping) else f", got {error['input']!r}"
    return f"{key}: {message[0].lower()}{message[1:]}{shown}"


def _names(kind: type[BaseModel], location: Sequence[Any]) -> list[str]:
    """The valid keys of the section at ``location``."""
    for part in location:
        annotation = kind.model_fields[part].annotation
        sections = [a for a in (annotation, *get_args(annotation)) if isinstance(a, type) and issubclass(a, BaseModel)]
        kind = sections[0]
    return list(kind.model_fields)
