"""Read and write users' files: one sentence instead of a traceback, whole files instead of halves."""

from __future__ import annotations

import contextlib
import csv
import errno
import hashlib
import json
import os
import pickle
import tarfile
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any

import yaml

from videoclip.errors import DataError, VideoclipError, printable, writing

# What libraries raise at a file that is missing, unreadable, truncated, of another kind, or of another structure.
READ_ERRORS = (
    OSError,
    ValueError,  # JSON, numpy, UnicodeDecodeError, pydantic
    EOFError,
    LookupError,
    TypeError,
    AttributeError,
    RuntimeError,  # torch; RecursionError
    MemoryError,  # a header that claims more than there can be
    ArithmeticError,  # sizes of zero, and beyond what numbers hold
    csv.Error,
    pickle.UnpicklingError,
    tarfile.TarError,
    zipfile.BadZipFile,
    zlib.error,
    yaml.YAMLError,
)
YAML_BYTES = 1 << 20
YAML_DEPTH = 32
YAML_ALIASES = 100


@contextlib.contextmanager
def reading(path: str | Path, kind: str, error: type[VideoclipError] = DataError, remedy: str = "") -> Iterator[None]:
    """Turn whatever goes wrong while a user's file is read and taken apart into one sentence with its path.

    The block should hold the reading of this one file and nothing else: errors of structure (a missing key, a list in
    place of a mapping) count as errors of the file.

    Args:
        path: the file.
        kind: what it should be, for the message: ``a JSON file``.
        error: the exception to raise.
        remedy: what to do, a whole sentence.

    Raises:
        VideoclipError: of the class ``error``. Errors of this package pass unchanged.
    """
    from safetensors import SafetensorError

    try:
        yield
    except VideoclipError:
        raise
    except (*READ_ERRORS, SafetensorError) as problem:
        sentence = f"{path}: {_cause(problem, kind)}"
        raise error(" ".join(filter(None, [sentence, remedy]))) from problem


def read_text(path: str | Path, error: type[VideoclipError] = DataError) -> str:
    """Return the content of a UTF-8 text file, with or without a byte order mark; line ends become ``\\n``.

    Raises:
        VideoclipError: of the class ``error``; the file is missing, a folder, or not UTF-8.
    """
    with reading(path, "a text file", error):
        return Path(path).read_text(encoding="utf-8-sig")


def read_lines(path: str | Path, error: type[VideoclipError] = DataError) -> list[str]:
    """Return the lines of a text file without their ends; only line feeds and carriage returns end a line.

    Raises:
        VideoclipError: as ``read_text``.
    """
    lines = read_text(path, error).split("\n")  # not splitlines: U+2028 and U+0085 may stand inside a caption
    return lines if lines[-1] else lines[:-1]


def read_json(path: str | Path, error: type[VideoclipError] = DataError, remedy: str = "") -> Any:
    """Return the content of a JSON file.

    Raises:
        VideoclipError: of the class ``error``; the file cannot be read, or is not JSON.
    """
    text = read_text(path, error)
    with reading(path, "a JSON file", error, remedy):
        return json.loads(text)


def read_yaml(path: str | Path, error: type[VideoclipError] = DataError) -> Any:
    """Return the content of a YAML file.

    Raises:
        VideoclipError: of the class ``error``; the file cannot be read, is not YAML, or is too large for a
            configuration (see ``parse_yaml``).
    """
    text = read_text(path, error)
    with reading(path, "a YAML file", error):
        return parse_yaml(text)


def parse_yaml(text: str) -> Any:
    """Return what a YAML text holds.

    A few aliases inside each other can stand for billions of values, and deep nesting exhausts the stack: size, depth
    and the number of aliases are bounded far above what a configuration needs.

    Raises:
        ValueError: a bound is passed.
        yaml.YAMLError: the text is not YAML.
    """
    if len(text) > YAML_BYTES:
        raise ValueError(f"{len(text)} characters are more than the {YAML_BYTES} that a configuration may have")

    depth = aliases = 0
    for event in yaml.parse(text, yaml.SafeLoader):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        aliases += isinstance(event, yaml.AliasEvent)
        if depth > YAML_DEPTH:
            raise ValueError(f"values are nested more than {YAML_DEPTH} deep")
        if aliases > YAML_ALIASES:
            raise ValueError(f"more than {YAML_ALIASES} aliases (*name)")

    content = yaml.safe_load(text)
    _check_size(content)
    return content


def replace_text(path: Path, text: str) -> None:
    """Write a whole text file or leave the old one.

    Raises:
        VideoclipError: the file cannot be written.
    """
    with replacing(path) as file:
        file.write(text.encode("utf-8", "backslashreplace"))  # a lone surrogate must not lose the file


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[IO[bytes]]:
    """Open a file to be written aside; it takes the place of ``path`` when the block ends without an error.

    Whenever the process is killed, ``path`` is the old file or the new one, whole and on disk.

    Raises:
        VideoclipError: the file cannot be written.
    """
    path = Path(os.path.realpath(path))  # a link stays a link
    if path.exists() and not path.is_file():  # a device or a pipe, in whose place no file may come
        with writing(path), path.open("wb") as file:
            yield file
        return

    temporary = path.with_name(f"{path.name}.tmp")
    with writing(path):
        try:
            with temporary.open("wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        except BaseException:
            with contextlib.suppress(OSError):
                temporary.unlink()
            raise


def to_json(value: Any, indent: int | None = None) -> str:
    """Return JSON that can be written as UTF-8: readable, but for texts with lone surrogates, which are escaped."""
    text = json.dumps(value, ensure_ascii=False, indent=indent)
    try:
        text.encode()
    except UnicodeEncodeError:
        return json.dumps(value, indent=indent)
    return text


def make_folder(path: Path) -> Path:
    """Create a folder for results, with its parents, and return it.

    Raises:
        VideoclipError: the folder cannot be made, or is a file.
    """
    with writing(path):
        path.mkdir(parents=True, exist_ok=True)
    return path


def make_place(path: Path) -> Path:
    """Create the folder that a file will be written to, with its parents, and return the file's path.

    Raises:
        VideoclipError: the folder cannot be made, or ``path`` itself is a folder.
    """
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    return path


def hash_of(lines: Iterable[str]) -> str:
    """Return sixteen hexadecimal digits that tell lines in their order apart."""
    return hashlib.sha256("\n".join(lines).encode("utf-8", "surrogatepass")).hexdigest()[:16]


def _cause(problem: BaseException, kind: str) -> str:
    """Say what is wrong with a file, without the path that the library's own message may repeat."""
    if isinstance(problem, FileNotFoundError):
        return "no such file."
    if isinstance(problem, IsADirectoryError):
        return f"is a folder, not {kind}."
    if isinstance(problem, OSError) and problem.strerror:
        return f"cannot be read ({problem.strerror})."
    if isinstance(problem, UnicodeDecodeError):
        line = problem.object[: problem.start].count(b"\n") + 1
        return (
            f"line {line} is not UTF-8 text (byte 0x{problem.object[problem.start]:02x}). "
            "Save the file with the encoding UTF-8."
        )
    if isinstance(problem, RecursionError):
        return f"is not {kind} that can be read (nested too deep)."
    detail = printable(" ".join(str(problem).split()))[:200]
    return f"is not {kind} that can be read ({type(problem).__name__}{': ' * bool(detail)}{detail})."


def _check_size(content: Any) -> None:
    """Refuse values that aliases have multiplied, counted as often as they would be written out."""
    left = YAML_BYTES
    open_values = [content]
    while open_values:
        value = open_values.pop()
        left -= 1
        if left < 0:
            raise ValueError(f"its aliases stand for more than {YAML_BYTES} values")
        if isinstance(value, dict):
            open_values += value.values()
        elif isinstance(value, list):
            open_values += value
