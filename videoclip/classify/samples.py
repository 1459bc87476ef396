"""Which clips a classifier learns from, is tuned on and is tested on."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from videoclip.data.classes import ClassList
from videoclip.data.manifest import Clip, labelled
from videoclip.errors import DataError
from videoclip.store import FeatureStore

MOST_VALIDATION_SHOTS = 4  # a class, where there is no validation split (CoOp's rule)


@dataclass(frozen=True)
class Shots:
    """Few clips of each class.

    Attributes:
        support: to learn from, in order of their classes; a class with too few repeats some.
        validation: to choose on; empty where no clips were left.
        validation_from: where they come from, in words.
    """

    support: list[Clip]
    validation: list[Clip]
    validation_from: str


@dataclass(frozen=True)
class Fold:
    """Clips to learn from, to choose on where there is a split for it, and to test on."""

    train: list[Clip]
    validation: list[Clip]
    test: list[Clip]


def clips_by_folder(store: FeatureStore) -> list[Clip]:
    """The clips of a store whose ids begin with a folder, which is their class.

    Raises:
        DataError: an id names no folder.
    """
    found = []
    for clip_id in store.ids:
        folder = PurePosixPath(clip_id).parent.name
        if not folder:
            raise DataError(
                f"{store.folder}: clip {clip_id!r} lies in no folder that could name its class; give a --manifest "
                "with labels."
            )
        found.append(Clip(id=clip_id, path=clip_id, label=folder))
    return found


def draw(
    clips: Sequence[Clip],
    classes: ClassList,
    shots: int | None,
    seed: int,
    validation: Sequence[Clip] = (),
) -> Shots:
    """K clips of each class, drawn by a seed; a class with fewer repeats some (Tip-Adapter's rule).

    Args:
        clips: with labels.
        classes: of the task; clips of others are left out.
        shots: K; all clips when None.
        seed: another one draws others.
        validation: a whole split to choose on. Without one, K more clips of each class, at most four and at most half
            of those left (rounded up), are drawn from ``clips``; first of groups that the support does not hold.
    """
    order = random.Random(seed)
    support, held = list[Clip](), list[Clip]()
    for label in classes.labels:
        own = [clip for clip in clips if clip.label == label]
        if not own:
            raise DataError(f"class {label!r} has no clip to learn from; add some, or leave it out of the class list.")
        if shots is None:
            support += own
            continue
        chosen = order.sample(own, shots) if len(own) >= shots else order.choices(own, k=shots)
        support += chosen
        held += _apart(own, chosen, min(shots, MOST_VALIDATION_SHOTS), order)
    if validation:
        known = set(classes.labels)
        return Shots(support, [clip for clip in validation if clip.label in known], "a split of its own")
    return Shots(support, held, "more clips of the training split" if held else "none")


def _apart(own: Sequence[Clip], chosen: Sequence[Clip], count: int, order: random.Random) -> list[Clip]:
    """So many others of a class, but no more than half of them, so that some are left to test on."""
    ids, groups = {clip.id for clip in chosen}, {clip.group for clip in chosen} - {None}
    rest = [clip for clip in own if clip.id not in ids]
    count = min(count, -(-len(rest) // 2))
    others = [clip for clip in rest if clip.group not in groups]
    if len(others) >= count:
        return order.sample(others, count)
    same = [clip for clip in rest if clip.group in groups]
    return [*others, *order.sample(same, count - len(others))]


def leave_group_out(clips: Sequence[Clip]) -> list[tuple[list[Clip], list[Clip]]]:
    """For each group of clips: all others to learn from, and its own to test on.

    Raises:
        DataError: a clip has no group, or all have the same.
    """
    lost = next((clip.id for clip in clips if clip.group is None), None)
    if lost is not None:
        raise DataError(f"clip {lost!r} has no group to leave out; write groups into the manifest with --group.")
    groups = sorted({str(clip.group) for clip in clips})
    if len(groups) < 2:
        raise DataError(f"All clips are of one group, {groups[0]!r}: there is none to learn from without it.")
    return [([c for c in clips if c.group != g], [c for c in clips if c.group == g]) for g in groups]


def make_folds(
    clips: Sequence[Clip], classes: ClassList, train: str, validation: str | None, test: str, by_group: bool
) -> list[Fold]:
    """One fold of three splits, or one for each group of clips that is left out.

    Args:
        clips: with labels; those of other classes than ``classes`` take no part.
        by_group: leave each group out once; the splits' names count for nothing.

    Raises:
        DataError: a split has no such clip, or a clip no group.
    """
    own = [clip for clip in clips if clip.label in set(classes.labels)]
    if by_group:
        return [Fold(learned, [], tested) for learned, tested in leave_group_out(own)]
    held = labelled(own, validation, "the clips") if validation else []
    fold = Fold(labelled(own, train, "the clips"), held, labelled(own, test, "the clips"))
    if shared := {c.id for c in fold.test} & {c.id for c in (*fold.train, *fold.validation)}:
        raise DataError(
            f"{len(shared)} clips of split {test!r} would also be learned from or chosen on: name other splits."
        )
    return [fold]


def part_of(classes: ClassList, clips: Sequence[Clip]) -> ClassList:
    """The classes of clips, in the order of a list.

    Raises:
        DataError: a clip's class is not in the list.
    """
    for clip in clips:
        classes.number(str(clip.label), f"clip {clip.id!r}")
    return classes.part(str(clip.label) for clip in clips)


def halves(classes: ClassList) -> tuple[ClassList, ClassList]:
    """Base and novel classes: the first half of a list, the larger one, and the rest."""
    middle = -(-len(classes) // 2)
    return classes.part(classes.labels[:middle]), classes.part(classes.labels[middle:])
