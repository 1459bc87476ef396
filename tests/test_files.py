"""Reading and writing users' files: errors name the file, writes are whole, temporary files do not stay behind."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from videoclip import files, scratch
from videoclip.errors import DataError, StoreError, printable

ANY_TEXT = st.text(st.characters(codec=None, exclude_categories=()), max_size=20)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no such file"),
        ("folder", "is a folder"),
        (b"caf\xe9", "line 1 is not UTF-8 text .*0xe9"),
        (b"{", "is not a JSON file that can be read"),
        (b"[" * 100_000, "nested too deep"),
    ],
)
def test_a_file_that_cannot_be_read_is_one_sentence(tmp_path: Path, content: bytes | str | None, message: str) -> None:
    path = tmp_path / "x.json"
    if content == "folder":
        path.mkdir()
    elif isinstance(content, bytes):
        path.write_bytes(content)
    with pytest.raises(DataError, match=message) as raised:
        files.read_json(path)
    assert str(path) in str(raised.value) and "\n" not in str(raised.value)


def test_lines_end_at_line_feeds_alone(tmp_path: Path) -> None:
    path = tmp_path / "x.txt"
    path.write_bytes("\ufeffa\u2028b\x85c\x0bd\r\ne\n".encode())
    assert files.read_lines(path) == ["a\u2028b\x85c\x0bd", "e"]


@pytest.mark.parametrize(
    "text",
    [
        "[" * 200 + "]" * 200,
        "\n".join(["a0: &a0 [x, x]", *(f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]" for n in range(1, 40))]),
        "a: &a [x]\nb: [" + "*a, " * 200 + "]",
        "x" * (files.YAML_BYTES + 1),
    ],
    ids=["deep", "doubling", "aliases", "long"],
)
def test_a_yaml_bomb_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"more than|may have"):
        files.parse_yaml(text)


def test_replacing_leaves_the_old_file_when_the_write_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.txt"
    files.replace_text(path, "old")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StoreError, match="No space left on device"):
        files.replace_text(path, "new")
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


@given(ANY_TEXT)
def test_printable_text_cannot_drive_a_terminal(text: str) -> None:
    shown = printable(text)
    assert shown.isprintable()
    assert shown.encode().decode() == shown


@given(st.dictionaries(ANY_TEXT, ANY_TEXT))
def test_json_keeps_every_text(value: dict[str, str]) -> None:
    assert json.loads(files.to_json(value).encode()) == value


@pytest.fixture
def short_folder() -> Iterator[str]:
    """A folder whose sockets have short paths, unlike those of ``tmp_path``."""
    with tempfile.TemporaryDirectory() as folder:
        yield folder
    scratch.scratch_folder.cache_clear()  # what the test made of it is gone


def test_temporary_files_of_a_killed_process_go_with_the_next_start(
    short_folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = (
        "from videoclip.store.produce import Producer; from videoclip.video import isolation;"
        "isolation.prepare(); print(flush=True); input()"
    )
    root = Path(short_folder)
    environment = {**os.environ, "TMPDIR": str(root)}
    command = [sys.executable, "-c", script]
    process = subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()
    monkeypatch.setattr(tempfile, "tempdir", str(root))
    (held,) = root.iterdir()  # no pymp-* beside it
    os.utime(held, (1, 1))
    scratch.scratch_folder.cache_clear()
    mine = scratch.scratch_folder()
    assert held.exists()  # its owner is alive
    process.kill()
    process.wait()
    os.utime(held, (1, 1))
    scratch.scratch_folder.cache_clear()
    scratch.scratch_folder()
    assert not held.exists() and mine.exists()
