"""Classes of a recognition task and the sentences about them: plain files with a name and a hash.

A class list has one class per line: its label, and after a tab the words for a prompt where those differ. Lines may
begin with the classes' numbers, from 0 or from 1, if all of them do; without, classes count from 0. A template has
``{}`` where these words go. Shipped ones are in ``configs/classes`` and ``configs/prompts``; ``#`` starts a comment.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from videoclip.config import find_text, shipped
from videoclip.data.annotations import read_lines, read_table
from videoclip.data.manifest import Clip, encodable
from videoclip.errors import DataError
from videoclip.files import hash_of, read_json, reading


@dataclass(frozen=True)
class ClassList:
    """The classes of a task, in order.

    Attributes:
        name: of the list.
        labels: as manifests have them.
        phrases: as they stand in a sentence.
        first: number of the first class, where labels are numbers.
    """

    name: str
    labels: tuple[str, ...]
    phrases: tuple[str, ...]
    first: int = field(default=0, compare=False)

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def last(self) -> int:
        """Number of the last class."""
        return self.first + len(self) - 1

    @property
    def fingerprint(self) -> str:
        """Hash of labels and phrases in order."""
        return hash_of(f"{label}\t{phrase}" for label, phrase in zip(self.labels, self.phrases, strict=True))

    def number(self, label: str, source: str) -> int:
        """The place of a label.

        Raises:
            DataError: it is none of these, of ``source``.
        """
        try:
            return self.labels.index(label)
        except ValueError:
            raise DataError(
                f"{source}: class {label!r} is not in the list {self.name} of {len(self)} classes "
                f"({', '.join(self.labels[:3])}, ...); leave it out, or take another list."
            ) from None

    def label_of(self, given: str, source: str) -> str:
        """Return a label of this list, given as it is, in other case, or by its number.

        Raises:
            DataError: it is not one of these, of ``source``.
        """
        if given in self.labels:  # first, as labels may be numbers themselves
            return given
        if given.isdecimal() and self.first <= int(given) <= self.last:
            return self.labels[int(given) - self.first]
        alike = [label for label in self.labels if label.casefold() == given.casefold()]
        return alike[0] if len(alike) == 1 else self.labels[self.number(given, source)]

    def check(self, other: ClassList) -> None:
        """Refuse a list that is not this one.

        Raises:
            DataError: saying whether length, order or a class differs.
        """
        if self.labels == other.labels:
            return
        if len(self) != len(other):
            what = f"has {len(other)} classes, not {len(self)}"
        elif set(self.labels) == set(other.labels):
            place = next(n for n, pair in enumerate(zip(self.labels, other.labels, strict=True)) if pair[0] != pair[1])
            what = f"has the same classes in another order, from number {place} on ({other.labels[place]!r})"
        else:
            new = next(label for label in other.labels if label not in self.labels)
            what = f"has other classes, such as {new!r}"
        raise DataError(
            f"The class list {other.name} {what}, than the one that the classifier was fitted on; use that."
        )

    def part(self, labels: Iterable[str]) -> ClassList:
        """Only these classes, in this list's order."""
        wanted = set(labels)
        pairs = [(label, p) for label, p in zip(self.labels, self.phrases, strict=True) if label in wanted]
        return ClassList(self.name, tuple(label for label, _ in pairs), tuple(phrase for _, phrase in pairs))


def load_classes(source: str | Path) -> ClassList:
    """Load a shipped list by name, or a file: lines, a table with a column ``name``, or a JSON of name -> number.

    Raises:
        DataError: there is no such list, it cannot be read, or a class is listed twice.
    """
    with reading(source, "a class list"):  # a name that no system takes
        path = find_text("classes", source)
    if path is None:
        raise DataError(f"{source}: no such file, and no shipped class list; there are: {_shipped('classes')}.")

    suffix = path.suffix.lower()
    rows = _of_table(path) if suffix in (".csv", ".tsv") else _of_json(path) if suffix == ".json" else _of_lines(path)
    first, pairs = _ordered(rows)
    labels = [encodable(label) for label, _ in pairs]
    if not labels:
        raise DataError(f"{path}: holds no class.")
    twice = next((label for label, count in Counter(labels).items() if count > 1), None)
    if twice is not None:
        raise DataError(f"{path}: class {twice!r} stands twice.")
    return ClassList(path.stem, tuple(labels), tuple(encodable(p or phrase_of(label)) for label, p in pairs), first)


def classes_of(clips: Sequence[Clip]) -> ClassList:
    """The labels that stand at clips, in alphabetical order, with words made of them."""
    labels = sorted({clip.label for clip in clips if clip.label is not None})
    return ClassList("of the clips", tuple(labels), tuple(map(phrase_of, labels)))


def phrase_of(label: str) -> str:
    """Words of a label: underscores become spaces, ``ApplyLipstick`` becomes ``Apply Lipstick``."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", " ", label.replace("_", " ").replace("[", "").replace("]", "")).strip()


@dataclass(frozen=True)
class Sentences:
    """What is said about each class.

    Attributes:
        name: of templates and descriptions.
        texts: of each class, in order.
    """

    name: str
    texts: tuple[tuple[str, ...], ...]

    @property
    def fingerprint(self) -> str:
        """Hash of all sentences in order."""
        return hash_of("\t".join(sentences) for sentences in self.texts)

    def label(self) -> dict[str, str]:
        """Name and hash, for a report."""
        return {"name": self.name, "fingerprint": self.fingerprint}


def sentences_about(classes: ClassList, templates: str | Path = "video", descriptions: Path | None = None) -> Sentences:
    """Every template with every class, and behind them a class's descriptions.

    Args:
        templates: a shipped set by name, a file, or a template itself; ``none`` for descriptions alone.
        descriptions: JSON of label, or phrase -> sentences.

    Raises:
        DataError: there is no such set, a template has no place for the class, or a class is not described.
    """
    name, lines = _templates(str(templates))
    said = [[line.replace("{}", phrase) for line in lines] for phrase in classes.phrases]
    if descriptions is not None:
        name = f"{name} + {Path(descriptions).stem}"
        found = _descriptions(Path(descriptions))
        for number, (label, phrase) in enumerate(zip(classes.labels, classes.phrases, strict=True)):
            own = found.get(_key(label)) or found.get(_key(phrase))
            if not own:
                raise DataError(f"{descriptions}: describes no class {label!r}.")
            said[number] += own
    if not said or not all(said):
        raise DataError("templates none needs --descriptions: a class must have at least one sentence.")
    return Sentences(name, tuple(map(tuple, said)))


def _templates(source: str) -> tuple[str, list[str]]:
    if source == "none":
        return source, []
    if "{}" in source:
        return source, [source]
    with reading(source, "a set of templates"):
        path = find_text("prompts", source)
    if path is None:
        raise DataError(
            f"{source}: no such file, no template with {{}} and no shipped set of templates; there are: "
            f"{_shipped('prompts')}."
        )
    lines = [line for line in read_lines(path) if not line.startswith("#")]
    wrong = next((line for line in lines if "{}" not in line), None)
    if wrong is not None or not lines:
        raise DataError(f"{path}: {wrong!r} has no {{}} for the class." if lines else f"{path}: holds no template.")
    return path.stem, lines


def _descriptions(path: Path) -> dict[str, list[str]]:
    given = read_json(path)
    right = isinstance(given, Mapping) and all(
        isinstance(texts, list) and all(isinstance(text, str) for text in texts) for texts in given.values()
    )
    if not right:
        raise DataError(f"{path}: must hold an object of class -> list of sentences.")
    return {_key(label): [encodable(text) for text in texts] for label, texts in given.items()}


Row = tuple[int | None, str, str]  # number, label, phrase


def _of_table(path: Path) -> list[Row]:
    rows = read_table(path, ["name"])
    ids = [row.get("id", "").strip() for row in rows]
    numbers = [int(i) if re.fullmatch("[0-9]{1,9}", i) else None for i in ids]
    return [(n, row["name"].strip(), row.get("phrase", "").strip()) for n, row in zip(numbers, rows, strict=True)]


def _of_json(path: Path) -> list[Row]:
    """Return the names of a list, or of an object of name -> number or number -> name."""
    given = read_json(path)
    if isinstance(given, list) and all(isinstance(name, str | int) for name in given):
        return [(None, str(name), "") for name in given]
    if not isinstance(given, Mapping):
        raise DataError(f"{path}: a JSON class list is a list of names, or an object of names and numbers.")
    turned = all(re.fullmatch("[0-9]{1,9}", key) for key in given)
    pairs = [(key, name) if turned else (name, key) for key, name in given.items()]
    wrong = next((number for number, _ in pairs if not re.fullmatch("[0-9]{1,9}", str(number))), None)
    if wrong is not None:
        raise DataError(f"{path}: {wrong!r} is not the number of a class; an object has names and numbers.")
    numbers = sorted(int(number) for number, _ in pairs)
    if numbers and numbers != list(range(numbers[0], numbers[0] + len(numbers))):
        raise DataError(f"{path}: numbers of classes must follow each other, without gaps and without doubles.")
    return [(int(number), str(name), "") for number, name in pairs]


def _of_lines(path: Path) -> list[Row]:
    """Return label and phrase of each line, and its number where every line begins with one: ``1 ApplyEyeMakeup``.

    Names may begin with numbers of their own, such as ``2 handed wave``.
    """
    lines = [line.partition("\t") for line in read_lines(path) if not line.startswith("#")]
    named: list[Row] = [(None, label.strip(" "), phrase.strip(" ")) for label, _, phrase in lines]
    found = [None if tab else re.fullmatch(r"([0-9]{1,9}) +(.+)", label) for label, tab, _ in lines]
    numbered: list[Row] = [(int(match[1]), match[2], "") for match in found if match]
    counted = sorted(number for number, *_ in numbered if number is not None)
    in_order = counted and counted[0] in (0, 1) and counted == list(range(counted[0], counted[0] + len(lines)))
    return numbered if in_order and len({label for _, label, _ in numbered}) == len(lines) else named


def _ordered(rows: Sequence[Row]) -> tuple[int, list[tuple[str, str]]]:
    """Sort classes by their numbers, where these follow each other, and return the first number."""
    first = min((number for number, *_ in rows if number is not None), default=0)
    in_order = sorted(rows, key=lambda row: first if row[0] is None else row[0])
    if [number for number, *_ in in_order] != list(range(first, first + len(rows))):
        first, in_order = 0, list(rows)
    return first, [(label, phrase) for _, label, phrase in in_order]


def _key(text: str) -> str:
    return re.sub(r"[\W_]", "", text).casefold()


def _shipped(folder: str) -> str:
    return ", ".join(shipped(folder, ".txt"))
