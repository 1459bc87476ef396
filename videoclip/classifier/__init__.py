"""Classifiers of clips on pooled features: components, one file each; the file's name is the method's name.

A classifier is fitted on a ``Lesson`` and gives logits. What it keeps is a handful of named tensors, which is all that
is saved. What several of them share lies in ``parts``. Shapes: N clips, M support clips, V views of each, K classes,
P sentences of a class, T frames, D joint width, C captions of a bank.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from videoclip.classifier.parts.prompts import PromptTower
from videoclip.classifier.parts.search import Found
from videoclip.errors import DataError
from videoclip.layers import unit

Need = Literal["support", "unlabelled", "tower", "frames", "bank"]


@dataclass(frozen=True)
class Clips:
    """Pooled clips.

    Attributes:
        pooled: (N, D), not normalised.
        labels: (N,) class numbers; None where nobody may know them.
        views: (V, N, D) the same clips cropped, mirrored or sampled otherwise, pooled.
        frames: (N, T, D) the plain view's frames, not normalised; ``mask`` (N, T) says which are real. None where no
            method asked for them.
        crops: (X, N, T, D) the same frames in other crops, where there are some.
    """

    pooled: Tensor
    labels: Tensor | None = None
    views: Tensor | None = None
    frames: Tensor | None = None
    mask: Tensor | None = None
    crops: Tensor | None = None

    def __len__(self) -> int:
        return len(self.pooled)

    def __getitem__(self, index: Tensor) -> Clips:
        """The clips that ``index`` (n,) names."""
        labels, frames, mask = (None if t is None else t[index] for t in (self.labels, self.frames, self.mask))
        views, crops = (None if t is None else t[:, index] for t in (self.views, self.crops))
        return Clips(self.pooled[index], labels, views, frames, mask, crops)

    @property
    def passes(self) -> Tensor:
        """What a method that asks for augmented passes gets: the views (V, N, D), or the plain clips once."""
        return self.pooled[None] if self.views is None else self.views

    @property
    def known(self) -> Tensor:
        """Labels (N,).

        Raises:
            DataError: there are none.
        """
        if self.labels is None:
            raise DataError("These clips come without labels, and this method needs them.")
        return self.labels

    def without_labels(self) -> Clips:
        """The same with nothing to peep at."""
        return replace(self, labels=None)

    def drawn(self, index: Tensor) -> Tensor:
        """One pass of each clip of ``index`` (n,), at random: (n, D), not normalised."""
        passes = self.passes
        return passes[torch.randint(len(passes), (len(index),)), index]


@dataclass(frozen=True)
class ClassTexts:
    """What is said about K classes.

    Attributes:
        names: as they stand in a prompt.
        sentences: of each class (P, D), not normalised; classes may have unequally many.
        tower: the text tower for methods that learn prompts.
    """

    names: tuple[str, ...]
    sentences: tuple[Tensor, ...]
    tower: PromptTower | None = None

    def __len__(self) -> int:
        return len(self.names)

    @property
    def weights(self) -> Tensor:
        """(K, D) of unit length: mean of each class's sentences, every one of unit length first."""
        return unit(torch.stack([unit(rows).mean(0) for rows in self.sentences]))

    @property
    def plain(self) -> Tensor:
        """(K, D), the mean of each class's sentences as they are."""
        return torch.stack([rows.mean(0) for rows in self.sentences])


@dataclass(frozen=True)
class Lesson:
    """Everything that a classifier may learn from. Test clips are not in it, unless ``unlabelled`` says so.

    Attributes:
        texts: of the classes.
        scale: factor between cosines and logits: exp(logit_scale) of the backbone; 100 in many papers' code.
        support: labelled clips, in order of their classes.
        validation: labelled clips that hyper-parameters and epochs are chosen on; without them defaults stay.
        unlabelled: clips without labels, for methods that take none.
        bank: (C, D) embeddings of captions, not normalised.
        seed: of everything random.
    """

    texts: ClassTexts
    scale: float
    support: Clips | None = None
    validation: Clips | None = None
    unlabelled: Clips | None = None
    bank: Tensor | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if len(self.texts) < 2:
            raise DataError(f"Recognition needs at least two classes; there is only {self.texts.names}.")

    @property
    def shots(self) -> Clips:
        """The support.

        Raises:
            DataError: there is none, or a class has no clip in it.
        """
        if self.support is None:
            raise DataError("This method needs labelled clips: give it some with --shots.")
        absent = sorted(set(range(len(self.texts))) - set(self.support.known.tolist()))
        if absent:
            raise DataError(
                f"{len(absent)} of {len(self.texts)} classes have no labelled clip, the first is "
                f"{self.texts.names[absent[0]]!r}: add clips, or leave the class out."
            )
        return self.support

    @property
    def pool(self) -> Clips:
        """The clips without labels.

        Raises:
            DataError: there are none.
        """
        if self.unlabelled is None or not len(self.unlabelled):
            raise DataError("This method learns from clips without labels, and there are none.")
        return self.unlabelled.without_labels()


class Classifier:
    """Base of every classifier.

    A subclass takes its options as keyword arguments and implements ``fit`` and ``logits``.

    Attributes:
        needs: what ``fit`` reads of a lesson besides texts, and ``logits`` of clips.
        tensors: what was learned; all that is saved.
        tower: the text tower, for those that need it to predict.
        found: how hyper-parameters were chosen, where they were.
    """

    needs: frozenset[Need] = frozenset({"support"})

    def __init__(self) -> None:
        self.tensors: dict[str, Tensor] = {}
        self.tower: PromptTower | None = None
        self.found: Found | None = None

    def fit(self, lesson: Lesson) -> None:
        """Learn.

        Raises:
            DataError: the lesson lacks what the method needs.
        """
        raise NotImplementedError

    def logits(self, clips: Clips) -> Tensor:
        """(N, K); no label is read, and no clip depends on the others unless the class says that it does."""
        raise NotImplementedError

    def probabilities(self, clips: Clips) -> Tensor:
        """(N, K), the softmax of the logits."""
        return self.logits(clips).softmax(1)

    def transferred(self, texts: ClassTexts) -> Classifier:
        """The same for other classes, of which only texts are known.

        Raises:
            DataError: the method knows nothing beyond the classes it was fitted on.
        """
        name = type(self).__module__.rpartition(".")[2]
        raise DataError(f"{name} knows only the classes it was fitted on; choose a method that goes on to new ones.")

    def keep(self, **tensors: Tensor | float) -> None:
        """Remember tensors under these names."""
        self.tensors |= {n: torch.as_tensor(t, dtype=_dtype(t)).detach().contiguous() for n, t in tensors.items()}

    def zero_shot(self, clips: Clips) -> Tensor:
        """(N, K) cosines with the kept ``weights``, times the kept ``scale``."""
        return self.tensors["scale"] * unit(clips.pooled) @ self.tensors["weights"].T

    def choose(self, found: Found) -> None:
        """Keep what a search found."""
        self.found = found
        self.keep(**found.values)


def right(logits: Tensor, labels: Tensor) -> int:
    """How many rows of logits (N, K) are highest at their label; the first of equal ones counts as highest."""
    return int((logits.argmax(1) == labels).sum())


def one_hot(labels: Tensor, classes: int) -> Tensor:
    """(N, K)."""
    return torch.nn.functional.one_hot(labels, classes).float()


def class_means(rows: Tensor, labels: Tensor, classes: int) -> Tensor:
    """Mean of rows (M, D) by label (M,): (K, D); zeros where a class has none."""
    shares = one_hot(labels, classes)
    return shares.T @ rows / shares.sum(0)[:, None].clamp(min=1)


def _dtype(value: Tensor | float) -> torch.dtype:
    return value.dtype if isinstance(value, Tensor) else torch.float32
