"""Writing small files whole, and telling texts apart by a hash."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path


def replace_text(path: Path, text: str) -> None:
    """Write a whole file or leave the old one."""
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(text)
    temporary.replace(path)


def hash_of(lines: Iterable[str]) -> str:
    """Sixteen hexadecimal digits that tell lines in their order apart."""
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]
