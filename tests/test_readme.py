"""README's Python runs as shown, on real files; its commands parse and name files that exist."""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path

import pytest

from videoclip.cli import _parser
from videoclip.config import find_config
from videoclip.model import create_model
from videoclip.store import FeatureStore

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def blocks(kind: str) -> list[str]:
    """The fenced blocks whose opening fence names ``kind``."""
    parts = re.split(r"^```", README, flags=re.MULTILINE)[1::2]
    return [body for name, _, body in (part.partition("\n") for part in parts) if name == kind]


def commands() -> list[list[str]]:
    lines = [line for block in blocks("") for line in block.splitlines()]
    return [shlex.split(part) for line in lines for part in line.split("&&")]


def test_python_runs_as_shown(
    shapes: Path, shapes_store: FeatureStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(shapes_store.folder, tmp_path / "features")
    for name, source in (("a.mp4", "0000.mp4"), ("b.mp4", "0000-twin.mp4")):
        shutil.copy(shapes.parent / "test" / source, tmp_path / name)
    create_model("tiny", temporal="lstm").save(tmp_path / "runs" / "lstm")
    monkeypatch.chdir(tmp_path)
    (block,) = blocks("python")
    names: dict[str, object] = {}
    exec(compile(block, "README.md", "exec"), names)
    assert names["scores"].shape == (1, 2)  # type: ignore[attr-defined]
    assert names["metrics"]["text_to_video/R@1"] == 100  # type: ignore[index]
    assert names["hit"].score <= 1  # type: ignore[attr-defined]


def test_commands_parse() -> None:
    found = [command for command in commands() if command[0] == "videoclip"]
    assert len(found) >= 8
    for command in found:
        _parser().parse_args(command[1:])


def test_files_in_commands_exist() -> None:
    launched = [command for command in commands() if command[:2] == ["accelerate", "launch"]]
    assert len(launched) >= 3
    for command in launched:
        at = next(place for place, part in enumerate(command) if part.endswith(".py"))
        assert (ROOT / command[at]).exists()
        subcommand = {"tools/train.py": "train", "tools/cache_features.py": "cache"}[command[at]]
        assert subcommand != "train" or (ROOT / command[at + 1]).exists()
        _parser().parse_args([subcommand, *command[at + 1 :]])
    trained = [command for command in commands() if command[:2] == ["videoclip", "train"]]
    assert trained and all(find_config(command[2]).exists() for command in trained)


def test_the_two_commands_of_the_first_ten_minutes() -> None:
    assert blocks("")[0] == 'pip install -e . && videoclip demo\npip install -e ".[dev]" && pytest\n'
    assert (
        "\npytest\npytest -m slow\n" in (ROOT / ".ci" / "run").read_text()
        and '-e ".[dev]"' in (ROOT / ".ci" / "run").read_text()
    )
