"""Fitting a classifier on clips of a store."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from videoclip import registry
from videoclip.classifier import Classifier, ClassTexts, Clips, Lesson, Need
from videoclip.classify.head import Head, weights_hash
from videoclip.classify.reader import Reader, class_texts
from videoclip.classify.samples import Shots
from videoclip.config import Component, parse_value
from videoclip.data.classes import ClassList, Sentences
from videoclip.data.manifest import Clip
from videoclip.errors import ConfigError
from videoclip.model import VideoTextModel
from videoclip.training.evaluate import encode_texts

Read = Callable[[Sequence[Clip], bool], Clips]  # clips, and whether with their labels


@dataclass(frozen=True)
class Task:
    """What classifiers are fitted for.

    Attributes:
        classes: in order.
        sentences: what is said about each.
        texts: the same, encoded.
        scale: factor between cosines and logits.
        bank: captions (C, D) for methods that ask for them.
    """

    classes: ClassList
    sentences: Sentences
    texts: ClassTexts
    scale: float
    bank: Tensor | None = None

    @classmethod
    def of(
        cls, model: VideoTextModel, classes: ClassList, sentences: Sentences, prompts: bool, bank: Sequence[str] = ()
    ) -> Task:
        """Encode what is said about classes; with ``prompts`` for methods that run the text tower."""
        texts = class_texts(model, classes, sentences, prompts)
        scale = float(model.logit_scale.detach().exp())
        return cls(classes, sentences, texts, scale, encode_texts(model, None, bank).sentence if bank else None)


def parse_method(text: str) -> Component:
    """``gda`` or ``upl:runs=4,epochs=20``: a method with options of its own.

    Raises:
        ConfigError: there is no such method or option, or a value is of another type; all mistakes at once.
    """
    name, _, rest = text.partition(":")
    options, unset = dict[str, Any](), []
    for key, equals, value in (part.partition("=") for part in rest.split(",") if part):
        try:
            options[key] = parse_value(value)
        except ValueError as error:
            unset.append(f"{key}: not a value ({error})")
        if not equals:
            unset.append(f"{key}: write options as {name}:option=value,option=value")
    method = Component(name=name, options=options)
    problems = unset + registry.check_component("classifier", name, method.options, name)
    if problems:
        raise ConfigError("--method", problems)
    return method


def fit_classifier(method: Component, lesson: Lesson) -> Classifier:
    """A classifier of that name, fitted.

    Raises:
        ConfigError: the method does not work with its options.
        DataError: the lesson lacks what the method needs.
    """
    classifier: Classifier = registry.create("classifier", method.name, method.options)
    if not method.options:  # with its defaults what goes wrong is not the user's mistake
        classifier.fit(lesson)
        return classifier

    with registry.blaming(f"classifier {method.name!r}", method.options):
        classifier.fit(lesson)
    return classifier


def lesson_for(
    method: Component, task: Task, read: Read, shots: Shots, unlabelled: Sequence[Clip], seed: int
) -> Lesson:
    """What a method may learn from: only what it needs is read."""
    needs = needs_of(method)
    support = validation = pool = None
    if "support" in needs:
        support = read(shots.support, True)
        validation = read(shots.validation, True) if shots.validation else None
    if "unlabelled" in needs and unlabelled:
        pool = read(unlabelled, False)
    return Lesson(task.texts, task.scale, support, validation, pool, task.bank, seed)


def needs_of(method: Component) -> frozenset[Need]:
    """What a method reads; see ``Classifier.needs``."""
    needs: frozenset[Need] = registry.components("classifier")[method.name].needs
    return needs | {"support"} if method.options.get("supervised") else needs


def fit_head(
    method: Component,
    reader: Reader,
    task: Task,
    shots: Shots,
    unlabelled: Sequence[Clip] = (),
    seed: int = 0,
    checkpoint: Path | None = None,
    about: dict[str, Any] | None = None,
) -> Head:
    """Fit a classifier and say what it was fitted on.

    Args:
        method: see ``parse_method``.
        reader: of the store, with the model that pools.
        task: classes, and what is said about them.
        shots: labelled clips.
        unlabelled: clips whose labels are not looked at, for methods that take such.
        seed: of everything random in the fitting.
        checkpoint: folder of the reader's model; None for the plain mean.
        about: more for ``Head.fitted_on``.
    """
    needs = needs_of(method)

    def read(clips: Sequence[Clip], with_labels: bool) -> Clips:
        return reader.clips(clips, task.classes if with_labels else None, needs)

    lesson = lesson_for(method, task, read, shots, unlabelled, seed)
    classifier = fit_classifier(method, lesson)
    backbone = reader.model.backbone
    assert backbone is not None
    folder = None if checkpoint is None else {"folder": str(checkpoint.resolve()), "weights": weights_hash(checkpoint)}
    fitted_on = {
        "store": reader.store.fingerprint,
        "seed": seed,
        "support": [] if lesson.support is None else [clip.id for clip in shots.support],
        "validation": [] if lesson.validation is None else [clip.id for clip in shots.validation],
        "validation_from": shots.validation_from if lesson.validation is not None else "none",
        "unlabelled": [] if lesson.unlabelled is None else [clip.id for clip in unlabelled],
        "class_list": task.classes.fingerprint,
        "search": None if classifier.found is None else classifier.found.summary(),
        **(about or {}),
    }
    return Head(
        classifier,
        method,
        task.classes,
        {**backbone.spec, "fingerprint": backbone.fingerprint},
        reader.model.config.frames,
        folder,
        task.sentences.label(),
        fitted_on,
    )


@torch.no_grad()
def probabilities(classifier: Classifier, views: Sequence[Clips]) -> Tensor:
    """(N, K), the mean over views of the same clips, whose labels nobody can read."""
    return torch.stack([classifier.probabilities(view.without_labels()) for view in views]).mean(0)
