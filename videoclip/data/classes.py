"""Classes of a recognition task and the sentences about them: plain files with a name and a hash.

A class list has a class a line: its label, and after a tab the words for a prompt where those differ. A template has
``{}`` where these words go. Shipped ones lie in ``configs/classes`` and ``configs/prompts``; ``#`` starts a comment.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from videoclip.config import find_text, shipped
from videoclip.data.annotations import read_json, read_lines, read_table
from videoclip.data.manifest import Clip
from videoclip.errors import DataError
from videoclip.files import hash_of


@dataclass(frozen=True)
class ClassList:
    """The classes of a task, in order.

    Attributes:
        name: of the list.
        labels: as manifests have them.
        phrases: as they stand in a sentence.
    """

    name: str
    labels: tuple[str, ...]
    phrases: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.labels)

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
    """A shipped list by name, or a file: lines of text, a table with a column ``name``, or a JSON of name -> number.

    Raises:
        DataError: there is no such list, or a class stands twice.
    """
    path = find_text("classes", source)
    if path is None:
        raise DataError(f"{source}: no such file, and no shipped class list; there are: {_shipped('classes')}.")
    if path.suffix == ".csv":
        rows = read_table(path, ["name"])
        pairs = [(row["name"], row.get("phrase") or phrase_of(row["name"])) for row in rows]
    elif path.suffix == ".json":
        try:
            names = _numbered(read_json(path))
        except (TypeError, ValueError) as error:
            raise DataError(
                f"{path}: a JSON class list is a list of names, or an object of names and numbers ({error})."
            ) from error
        pairs = [(name, phrase_of(name)) for name in names]
    else:
        lines = [line for line in read_lines(path) if not line.startswith("#")]
        pairs = [_class_line(line) for line in lines]
    labels = [label for label, _ in pairs]
    twice = next((label for label in labels if labels.count(label) > 1), None)
    if twice is not None or not labels:
        raise DataError(f"{path}: class {twice!r} stands twice." if labels else f"{path}: holds no class.")
    return ClassList(path.stem, tuple(labels), tuple(phrase for _, phrase in pairs))


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
    return {_key(label): list(texts) for label, texts in given.items()}


def _numbered(given: object) -> list[str]:
    """Names of a JSON list, or of an object name -> number or number -> name, by number."""
    if isinstance(given, list):
        return [str(name) for name in given]
    if not isinstance(given, Mapping):
        raise TypeError(f"it holds a {type(given).__name__}")
    turned = all(str(key).isdigit() for key in given)
    pairs = [(int(k), str(v)) if turned else (int(v), str(k)) for k, v in given.items()]
    return [name for _, name in sorted(pairs)]


def _class_line(line: str) -> tuple[str, str]:
    label, tab, phrase = line.partition("\t")
    if not tab and (numbered := re.fullmatch(r"\d+ (\S+)", line)):
        label = numbered[1]  # UCF101's classInd.txt
    return label, phrase if tab else phrase_of(label)


def _key(text: str) -> str:
    return re.sub(r"[\W_]", "", text).casefold()


def _shipped(folder: str) -> str:
    return ", ".join(shipped(folder, ".txt"))
