"""Every command with every file argument broken in every way: a sentence and a status, never a traceback.

Commands and arguments are read off the parser, so that new ones are covered as they come. An argument that is neither
a number, a switch, a choice nor listed in ``TEXTS`` counts as one that names a file or a folder.
"""

from __future__ import annotations

import argparse
import inspect
import json
import os
import pickle
import shutil
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from videoclip import cli
from videoclip.backbone import create_backbone
from videoclip.cli import LAST_RESORT, arguments, main
from videoclip.data.manifest import read_manifest, write_manifest
from videoclip.model import create_model
from videoclip.store.extract import cache_features
from videoclip.synthetic.moving_shapes import Counts, write_moving_shapes
from videoclip.video.clip import FrameChoice

# Arguments that take a text which names no file, with a value that works.
TEXTS = {
    "backbone": "somebody's CLIP",
    "bank": "val",
    "dataset": "jsonl",
    "group": "[a-z]+",
    "method": "zero_shot",
    "methods": "zero_shot",
    "novel": "half",
    "overrides": "train.epochs=1",
    "protocol": "custom",
    "push": "file:///nowhere",
    "retry_failed": "open",
    "set": "train.epochs=1",
    "split": "test",
    "splits": "test",
    "status": "ok",
    "system": "clip4clip",
    "test": "test",
    "text": "a red circle",
    "train": "train",
    "unlabelled": "train",
    "validation": "val",
    "weigh_on": "val",
}
# Given wherever a command has them, because what is tested beside them is read only then, or sooner.
ALWAYS = ("manifest", "store", "split", "head", "methods", "workers", "seeds", "shots")
SMALL = {"workers": "0", "seeds": "1", "shots": "1"}
# Arguments that mean something else than others of the same name.
INSTEAD = {("blend", "first"): "checkpoint", ("blend", "second"): "checkpoint", ("store", "source"): "arrays"}
# Inputs that are right where they look wrong: any text may be a list of classes, prompts or captions, and half of a
# list of lines is one; FFmpeg reads a
# picture as a video of one frame; a folder without videos makes a manifest whose clips are all missing.
RIGHT = {
    *((name, kind) for name in ("bank", "classes", "templates") for kind in ("structure", "nested", "numbers", "nan")),
    *((name, "truncated") for name in ("annotations", "bank", "classes", "qrels", "queries", "run", "templates")),
    *((name, "picture") for name in ("files", "path")),
    ("videos", "folder"),
    ("videos", "truncated"),  # names are joined, nothing is decoded
}


@dataclass(frozen=True)
class Argument:
    """An argument of a command: the words before it, and the parser that it belongs to."""

    words: tuple[str, ...]
    parser: argparse.ArgumentParser
    action: argparse.Action

    def __str__(self) -> str:
        return f"{'-'.join(self.words)}-{self.action.dest}"


def commands(parser: argparse.ArgumentParser, words: tuple[str, ...] = ()) -> Iterator[Argument]:
    """Every argument of every command below a parser."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name, sub in action.choices.items():
                yield from commands(sub, (*words, name))
        elif not isinstance(action, argparse._HelpAction):
            yield Argument(words, parser, action)


EVERY = list(commands(cli._parser()))
NUMBERS = {
    value
    for name, value in vars(arguments).items()
    if getattr(value, "__module__", "") == arguments.__name__
    and not name.startswith("_")
    and list(inspect.signature(value).parameters) == ["text"]
} - {arguments.folder}
NUMERIC = [a for a in EVERY if a.action.type in NUMBERS]


def names_file(argument: Argument) -> bool:
    action = argument.action
    if action.nargs == 0 or action.choices or action.dest == "out":
        return False
    return action.type in (Path, arguments.folder) or (action.type in (None, str) and action.dest not in TEXTS)


FILES = [a for a in EVERY if names_file(a)]
OUTPUTS = [a for a in EVERY if a.action.dest == "out"]


def test_the_parser_is_read() -> None:
    assert len(FILES) > 40 and len(OUTPUTS) > 10 and len(NUMERIC) > 20


@pytest.mark.parametrize("argument", EVERY, ids=str)
def test_every_number_has_a_type_with_a_range(argument: Argument) -> None:
    assert argument.action.type in {None, str, Path, arguments.folder, *NUMBERS}


@pytest.mark.parametrize("value", ["nan", "inf", "-1", "1e30", "9" * 30, "", "x"])
@pytest.mark.parametrize("kind", sorted(NUMBERS, key=lambda kind: kind.__name__))
def test_numbers_out_of_range_are_refused(kind: Callable[[str], object], value: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError):
        kind(value)


@pytest.fixture(scope="session")
def valid(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """For every file argument, by its name, something that works."""
    folder = tmp_path_factory.mktemp("valid")
    made = write_moving_shapes(folder / "videos", counts=Counts(train=2, val=1, test=1, novel=1))
    clips = [clip.model_copy(update={"label": "ab"[n % 2]}) for n, clip in enumerate(read_manifest(made))]
    manifest = folder / "videos" / "labelled.jsonl"
    write_manifest(clips, manifest)
    cache_features(clips, folder / "store", create_backbone("tiny"), FrameChoice(frames=2), workers=0)
    create_model("tiny", frames=2).save(folder / "checkpoint")
    common = ["--manifest", str(manifest), "--store", str(folder / "store")]
    assert main(["evaluate", str(folder / "checkpoint"), *common, "--out", str(folder / "run")]) == 0
    head = folder / "head.safetensors"
    fit = ["classify", "fit", str(folder / "store"), *common[:2], "--method", "zero_shot", "--out", str(head)]
    assert main(fit) == 0
    np.save(folder / "relevance.npy", np.eye(len([clip for clip in clips if clip.split == "test"])))
    (folder / "config.yaml").write_text(
        f"data: {{manifest: {manifest}, store: {folder / 'store'}}}\ntrain: {{batch_size: 2}}\n"
    )
    (folder / "classes.txt").write_text("a\nb\n")
    (folder / "templates.txt").write_text("a {}\n")
    (folder / "descriptions.json").write_text(json.dumps({"a": ["one"], "b": ["two"]}))
    (folder / "bank.txt").write_text("a caption\n")
    (folder / "arrays").mkdir()
    np.save(folder / "arrays" / "clip.npy", np.ones((2, 4), np.float32))
    film = clips[0].path
    found = {name: folder / name for name in ("arrays", "checkpoint", "store")}
    found |= dict.fromkeys(("stores",), folder / "store") | dict.fromkeys(("first", "second"), folder / "run")
    found |= dict.fromkeys(("config", "configs", "on"), folder / "config.yaml")
    found |= {"checkpoints": folder / "checkpoint", "manifest": manifest, "source": manifest, "annotations": manifest}
    found |= {"videos": folder / "videos", "head": head, "file": head, "files": Path(film), "path": Path(film)}
    found |= {"run": folder / "run" / "test.run", "queries": folder / "run" / "test.queries.tsv"}
    found |= {"qrels": folder / "run" / "test.qrels", "relevance": folder / "relevance.npy"}
    found |= {"classes": folder / "classes.txt", "templates": folder / "templates.txt"}
    return found | {"descriptions": folder / "descriptions.json", "bank": folder / "bank.txt"}


def value_of(argument: Argument, valid: dict[str, Path], out: Path) -> str:
    """A value that works, or for an argument that nobody knows here a path that does not exist."""
    action = argument.action
    if action.choices:
        return str(next(iter(action.choices)))
    if not names_file(argument):
        return str(out) if action.dest == "out" else SMALL.get(action.dest) or TEXTS.get(action.dest, "1")
    name = INSTEAD.get((argument.words[0], action.dest), action.dest)
    return "tiny" if name == "model" else str(valid.get(name, out.parent / "absent"))


def command(tested: Argument, value: str, valid: dict[str, Path], out: Path) -> list[str]:
    """A command line that would work, but for the value of one argument."""
    before, after = list(tested.words), list[str]()
    for other in EVERY:
        action = other.action
        if other.words != tested.words:
            continue
        given = value if action is tested.action else value_of(other, valid, out)
        wanted = action is tested.action or action.dest in ALWAYS or action.dest == "out"
        if not action.option_strings:
            after += [given] if wanted or action.nargs not in ("*", "?") else []
        elif action.required or wanted or (action.dest == "model" and tested.action.dest == "pretrained"):
            before += [f"{action.option_strings[-1]}={given}"]
    return [*before, *after] if len(after) else before


def refused(capsys: pytest.CaptureFixture[str], line: list[str], *paths: Path) -> None:
    """Run a command that must fail: a status, one or two sentences with a path, no traceback."""
    capsys.readouterr()
    try:
        code: object = main(line)
    except SystemExit as stop:
        code = stop.code
    out, err = capsys.readouterr()
    assert code, f"{line} worked: {out}"
    last = err[err.rfind("error: ") :].strip()
    assert "Traceback" not in err and LAST_RESORT not in err, (line, err)
    assert any(path.name in last for path in paths), (line, err)
    assert last.startswith("error: ") and len(last) < 1500 and last.count("\n") < 12, (line, err)
    assert all(one.isprintable() for one in last.split("\n")), (line, err)


def broken(kind: str, path: Path, good: Path | None) -> Path:
    """Write a bad input of some kind."""
    if kind == "folder":
        path.mkdir()
    elif kind == "truncated" and good is not None and good.is_dir():
        shutil.copytree(good, path)
        for file in (file for file in path.rglob("*") if file.is_file()):
            os.truncate(file, file.stat().st_size // 2)
    elif kind == "truncated":
        path.write_bytes(good.read_bytes()[: good.stat().st_size // 2] if good else b"")
    elif kind == "zip":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("a", "b")
    elif kind != "missing":
        path.write_bytes(CONTENTS[kind])
    return path


CONTENTS = {
    "empty": b"",
    "latin1": "caf\xe9, na\xefve\n".encode("latin1"),
    "structure": b'[{"id": [1], "path": {"a": null}, "name": 3}]\n',
    "nested": b"[" * 5000,
    "picture": bytes.fromhex(
        "89504e470d0a1a0a0000000d49484452000000010000000108060000001f15c4890000000d49444154789c63f8cfc0f01f000501"
        "01ff5c1d2d0b0000000049454e44ae426082"
    ),
    "pickle": pickle.dumps({"state_dict": [1, 2]}),
    "numbers": b"1e999 -99999999999999999999 99999999999999999999 1e999 x x\n",
    "nan": b"nan nan nan nan nan nan\n",
}
QUICK = ("missing", "folder", "latin1", "structure")
SLOW = ("empty", "truncated", "zip", *(kind for kind in CONTENTS if kind not in (*QUICK, "empty")))
KINDS = [*QUICK, *(pytest.param(kind, marks=pytest.mark.slow) for kind in SLOW)]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("argument", FILES, ids=str)
def test_bad_files(
    argument: Argument,
    kind: str,
    valid: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    if (argument.action.dest, kind) in RIGHT:
        pytest.skip("is a right input here")
    monkeypatch.chdir(tmp_path)
    good = valid.get(argument.action.dest)
    path = broken(kind, tmp_path / f"hostile{'' if good is None else good.suffix}", good)
    refused(capsys, command(argument, str(path), valid, tmp_path / "out"), path)


@pytest.mark.parametrize("argument", OUTPUTS, ids=str)
def test_outputs_below_a_file(
    argument: Argument,
    valid: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "hostile").write_text("a file, not a folder")
    out = tmp_path / "hostile" / "out"
    source = (valid["file"],) if argument.words == ("convert",) else ()  # which is nobody's checkpoint
    refused(capsys, command(argument, str(out), valid, out), tmp_path / "hostile", *source)
    assert (tmp_path / "hostile").read_text() == "a file, not a folder"
