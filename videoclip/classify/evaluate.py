"""Scoring fitted classifiers: one alone, several together, on other classes, on a file."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from videoclip.classifier import Classifier, Clips, right
from videoclip.classifier.parts.search import Found, first_best
from videoclip.classify.fit import probabilities
from videoclip.classify.head import Head
from videoclip.classify.reader import Reader, View, class_texts, pooled_of, prompt_tower
from videoclip.classify.report import plot_confusion
from videoclip.data.classes import ClassList, Sentences
from videoclip.data.manifest import Clip
from videoclip.errors import DataError, VideoclipError
from videoclip.files import make_folder, replace_text, to_json
from videoclip.metrics.classes import Recognition
from videoclip.video.views import CROPS


@dataclass(frozen=True)
class Judged:
    """A classifier's predictions for the clips of a split.

    Attributes:
        found: predictions with the true classes.
        ids: of the clips.
        classes: in the order of the predictions.
        views: how many looks at each clip were averaged.
        notes: what a reader of the numbers must know.
        weights: of several classifiers, where they were searched.
    """

    found: Recognition
    ids: list[str]
    classes: ClassList
    views: int
    notes: list[str]
    weights: Found | None = None

    def summary(self) -> dict[str, Any]:
        """Ready for JSON."""
        facts = {"classes": len(self.classes), "class_list": self.classes.fingerprint, "views": self.views}
        weights = None if self.weights is None else self.weights.summary()
        return {**self.found.summary(), **facts, "weights": weights, "notes": self.notes}

    def write(self, folder: Path, summary: Mapping[str, Any]) -> None:
        """Leave a summary, every prediction, and (with matplotlib) the picture of confusions in a folder."""
        make_folder(folder)
        replace_text(folder / "recognition.json", to_json(summary, indent=2) + "\n")
        names, found = self.classes.labels, self.found
        rows = zip(self.ids, found.labels.tolist(), found.probabilities.argmax(1).tolist(), strict=True)
        lines = [to_json({"id": i, "label": names[a], "predicted": names[b]}) + "\n" for i, a, b in rows]
        replace_text(folder / "predictions.jsonl", "".join(lines))
        with contextlib.suppress(VideoclipError):  # without matplotlib there is no picture, but all the rest
            plot_confusion(found.confusion, names, folder / "confusion.png")


def views_of(clips: int, crops: bool) -> list[View]:
    """``clips`` choices of frames x the stored square crops, or the plain view alone."""
    kinds: Sequence[str | None] = CROPS if crops else (None,)
    return [View(number, clips, crop) for number, crop in itertools.product(range(clips), kinds)]


def judge(
    head: Head, reader: Reader, clips: Sequence[Clip], views: Sequence[View] = (View(),), other: Other | None = None
) -> Judged:
    """Predict first, then look at the labels.

    Args:
        head: fitted on features of the same backbone.
        reader: of the store, with the head's model.
        clips: with labels.
        views: whose softmaxes are averaged.
        other: other classes than the head was fitted on, told by texts alone.

    Raises:
        CheckpointError: the store's features are those of another backbone.
        DataError: a clip's class is unknown, or the method cannot go on to other classes.
    """
    head.check_backbone(reader.store.recipe.backbone, str(reader.store.folder))
    classes, classifier = head.classes, head.classifier
    if "tower" in classifier.needs:
        classifier.tower = prompt_tower(reader.model)
    looks = reader.views(clips, views, classifier.needs)
    with head.fits():
        if other is not None:
            classes = other.classes
            classifier = transferred(classifier, reader, other)
        predicted = probabilities(classifier, looks)
        _check_width(predicted, classes)
    labels = torch.tensor([classes.number(str(clip.label), f"clip {clip.id!r}") for clip in clips])
    found = Recognition(predicted, labels)
    return Judged(found, [clip.id for clip in clips], classes, len(views), _notes(head, clips))


@dataclass(frozen=True)
class Other:
    """Classes that a classifier was not fitted on, and what is said about them."""

    classes: ClassList
    sentences: Sentences


def transferred(classifier: Classifier, reader: Reader, other: Other) -> Classifier:
    """A classifier of other classes."""
    texts = class_texts(reader.model, other.classes, other.sentences, "tower" in classifier.needs)
    return classifier.transferred(texts)


def judge_together(
    heads: Sequence[Head],
    readers: Sequence[Reader],
    clips: Sequence[Clip],
    views: Sequence[View] = (View(),),
    other: Other | None = None,
    tuning: Sequence[Clip] = (),
) -> Judged:
    """Several classifiers of the same classes, each on its own store: the mean of their probabilities.

    Args:
        tuning: clips on which weights are searched; equal ones without.
    """
    for head in heads[1:]:
        heads[0].classes.check(head.classes)

    def each(some: Sequence[Clip]) -> list[Judged]:
        return [judge(head, reader, some, views, other) for head, reader in zip(heads, readers, strict=True)]

    judged = each(clips)
    if len(heads) == 1:
        return judged[0]
    weights = weigh([one.found for one in each(tuning)]) if tuning else None
    shares = None if weights is None else list(weights.values.values())
    notes = list(dict.fromkeys(note for one in judged for note in one.notes))
    if shared := len({clip.id for clip in tuning} & {clip.id for clip in clips}):
        notes.append(f"the weights were chosen on {shared} of these clips: this is no test")
    mixed = together([one.found for one in judged], shares)
    return Judged(mixed, judged[0].ids, judged[0].classes, len(views), notes, weights)


def together(found: Sequence[Recognition], weights: Sequence[float] | None = None) -> Recognition:
    """The (weighted) mean of several classifiers' probabilities for the same clips: of one backbone or of several."""
    shares = torch.tensor(weights if weights is not None else [1.0] * len(found))
    mixed = torch.einsum("e,enk->nk", shares / shares.sum(), torch.stack([one.probabilities for one in found]))
    return Recognition(mixed, found[0].labels)


def weigh(found: Sequence[Recognition], points: int = 11) -> Found:
    """Weights of several classifiers, the first best on validation clips; each runs over 0 to 1 in so many points."""
    grid = {f"weight {number}": [n / (points - 1) for n in range(points)] for number in range(len(found))}
    counts = [
        0 if not any(shares) else right(together(found, shares).probabilities, found[0].labels)
        for shares in itertools.product(*grid.values())
    ]
    return first_best(grid, torch.tensor(counts), len(found[0].labels), dict.fromkeys(grid, 1.0))


@torch.no_grad()
def predict_files(head: Head, paths: Sequence[Path], trust: bool = False) -> Tensor:
    """Return probabilities (N, K) for video files, decoded now.

    Raises:
        BackboneError: the head's file names a folder or a repository, and ``trust`` is not set.
        CheckpointError: the head's backbone or model is not here, or its tensors do not fit.
        DecodeError: a file cannot be read.
    """
    model, needs = head.model(trust=trust), head.classifier.needs
    assert model.backbone is not None
    if "tower" in needs:
        head.classifier.tower = prompt_tower(model)
    rows = []
    for path in paths:
        encoded = model.encode_video([path])
        plain = encoded.source if "frames" in needs else None
        clip = Clips(pooled_of(model, encoded), None, None, plain, encoded.mask)
        with head.fits():
            rows.append(probabilities(head.classifier, [clip]))
            _check_width(rows[-1], head.classes)
    return torch.cat(rows)


def _check_width(found: Tensor, classes: ClassList) -> None:
    if found.shape[1] != len(classes) or not found.isfinite().all():
        raise ValueError(f"its tensors give {found.shape[1]} values for {len(classes)} classes, or no numbers")


def apart(heads: Sequence[Head], clips: Sequence[Clip]) -> list[Clip]:
    """The clips that no head was fitted or tuned on.

    Raises:
        DataError: there is none.
    """
    known = {clip_id for head in heads for clip_id in _known(head)}
    left = [clip for clip in clips if clip.id not in known]
    if not left:
        raise DataError("A classifier was fitted on every one of these clips; test it on others.")
    return left


def _known(head: Head) -> set[str]:
    return {*head.fitted_on["support"], *head.fitted_on["validation"]}


def _notes(head: Head, clips: Sequence[Clip]) -> list[str]:
    ids = {clip.id for clip in clips}
    seen, known = {*head.fitted_on["unlabelled"]} & ids, _known(head) & ids
    notes = [f"{len(known)} of these clips were fitted or tuned on: this is no test"] if known else []
    return notes + ([f"transductive: {len(seen)} of these clips were looked at, without their labels"] if seen else [])
