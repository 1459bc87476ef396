"""The few exceptions that a user can meet.

Each carries one sentence: which file or key, what is wrong, what to do. The command line prints that
sentence alone; ``--debug`` adds the traceback.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path


class VideoclipError(Exception):
    """Base of every error that a user's input can cause."""


class ConfigError(VideoclipError):
    """A configuration is wrong; ``problems`` lists every mistake, each with its dotted key.

    Without ``problems`` the first argument is the whole sentence: the file cannot be read at all.
    """

    def __init__(self, source: str, problems: Sequence[str] = ()) -> None:
        self.problems = list(problems)
        head = f"{source} has {len(self.problems)} mistake(s):" if problems else source
        super().__init__("\n".join([head, *map("  {}".format, problems)]))


class BackboneError(VideoclipError):
    """A CLIP model cannot be found or loaded, or cannot do what was asked of it."""


class DecodeError(VideoclipError):
    """A video cannot be read. ``stage`` is where it failed: ``open``, ``probe`` or ``decode``."""

    def __init__(self, stage: str, message: str) -> None:
        self.stage = stage
        super().__init__(message)


class DataError(VideoclipError):
    """A manifest, run file or other input file is malformed or does not fit the rest."""


class StoreError(VideoclipError):
    """A feature store is missing, damaged, or was made under another recipe."""


class CheckpointError(VideoclipError):
    """A checkpoint does not fit the model it is loaded into."""


@contextlib.contextmanager
def writing(place: Path) -> Iterator[None]:
    """Turn what the system says of a place that cannot be written (full, read-only, a file) into a sentence.

    Raises:
        StoreError: in place of any OSError.
    """
    try:
        yield
    except OSError as error:
        raise StoreError(
            f"Cannot write to {place}: {error.strerror or error}. Committed data is safe. Free some space or choose "
            "another place, then rerun the command to resume."
        ) from error


def printable(text: str) -> str:
    """Return text that is safe on a terminal: control characters, line breaks and lone surrogates are escaped."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def printable_lines(text: str) -> str:
    """Return several lines, each as ``printable`` leaves it."""
    return "\n".join(map(printable, text.split("\n")))
