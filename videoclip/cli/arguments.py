"""Types of command-line arguments, and what a command is.

Every option that takes a number has its type here, with its range: argparse then refuses anything else in one
sentence, NaN, infinity and absurd sizes included.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from videoclip.limits import LARGEST, LARGEST_COUNT, LARGEST_SEED, MOST_WORKERS

Command = Callable[[argparse.Namespace], int | None]  # what it returns is the exit status; None is 0
AddArguments = Callable[[argparse.ArgumentParser], None]


def folder(text: str) -> Path:
    """Return a folder on this machine."""
    if "://" in text:
        raise argparse.ArgumentTypeError("must be a folder here; --push copies a store to an address")
    return Path(text)


def count(text: str) -> int:
    """Return an integer of at least 1."""
    return _integer(text, 1, LARGEST_COUNT)


def number(text: str) -> int:
    """Return an integer of at least 0."""
    return _integer(text, 0, LARGEST_COUNT)


def workers(text: str) -> int:
    """Return a number of processes, 0 for none."""
    return _integer(text, 0, MOST_WORKERS)


def seed(text: str) -> int:
    """Return a seed: an integer of 32 bits."""
    return _integer(text, 0, LARGEST_SEED)


def positive(text: str) -> float:
    """Return a finite number above 0."""
    value = _float(text)
    if not 0 < value <= LARGEST:
        raise argparse.ArgumentTypeError(f"must be above 0 and at most {LARGEST}, not {text}")
    return value


def share(text: str) -> float:
    """Return a number from 0 to 1."""
    value = _float(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"must lie between 0 and 1, not {text}")
    return value


def trust_argument(sub: argparse.ArgumentParser) -> None:
    """Add ``--trust`` to a command that loads the model that a store or a file names."""
    sub.add_argument(
        "--trust",
        action="store_true",
        help="load the model that the store or file names even from a repository, a folder or a file",
    )


def image_transform(sub: argparse._ActionsContainer) -> None:
    """Add the options for the image transform of weights that do not bring theirs along."""
    sub.add_argument("--mean", nargs=3, type=share, metavar=("R", "G", "B"), help="mean of the pixels in training, 0-1")
    sub.add_argument("--std", nargs=3, type=positive, metavar=("R", "G", "B"), help="standard deviation, likewise")
    sub.add_argument("--interpolation", choices=["bicubic", "bilinear"], help="interpolation of the resize")
    sub.add_argument("--resize-mode", choices=["shortest", "longest", "squash"], help="how a frame becomes a square")


def transform_of(args: argparse.Namespace) -> dict[str, Any]:
    """Return the options of ``image_transform`` as arguments of ``create_backbone``."""
    return {name: getattr(args, name) for name in ("mean", "std", "interpolation", "resize_mode")}


def _integer(text: str, lowest: int, highest: int) -> int:
    try:
        value = int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be an integer, not {text!r}") from None
    if not lowest <= value <= highest:
        raise argparse.ArgumentTypeError(f"must lie between {lowest} and {highest}, not {text}")
    return value


def _float(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be a number, not {text!r}") from None
    if not math.isfinite(value):
        raise argparse.ArgumentTypeError(f"must be finite, not {text}")
    return value
