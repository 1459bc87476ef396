"""Types of command-line arguments, and what a command is."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

Command = Callable[[argparse.Namespace], None]
AddArguments = Callable[[argparse.ArgumentParser], None]


def folder(text: str) -> Path:
    """A folder on this machine."""
    if "://" in text:
        raise argparse.ArgumentTypeError("must be a folder here; --push copies a store to an address")
    return Path(text)


def count(text: str) -> int:
    """An integer of at least 1."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return value


def positive(text: str) -> float:
    """A number above 0."""
    value = float(text)
    if value <= 0:
        raise argparse.ArgumentTypeError("must be positive")
    return value


def share(text: str) -> float:
    """A number from 0 to 1."""
    value = float(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError("must lie between 0 and 1")
    return value
