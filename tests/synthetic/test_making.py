"""Data are made only where nothing of anybody else's lies, and only for the places that were named with the asking."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from videoclip.cli import main
from videoclip.config import load_config
from videoclip.demo import _config, prepare_data
from videoclip.errors import DataError
from videoclip.synthetic.moving_shapes import MARKER, Counts, seed_of, write_moving_shapes

FEW = Counts(train=1, val=1, test=1, novel=1)


@pytest.mark.parametrize(
    ("overrides", "made"),
    [
        ([], True),
        (["train.epochs=1"], True),
        (["data.test=[test]"], True),
        (["data.manifest=own/mine.jsonl"], False),
        (["data.store=own/store"], False),
        (["data={manifest: own/mine.jsonl}"], False),
        (["data.manifest=own/mine.jsonl", "data.synthetic=moving_shapes"], True),
        (["data.synthetic=moving_shapes", "data.store=own/store"], True),
        (["data.synthetic=null"], False),
    ],
)
def test_other_places_turn_the_making_off(overrides: list[str], made: bool) -> None:
    assert (load_config("demo/lstm", overrides).data.synthetic is not None) == made


@pytest.mark.parametrize("key", ["manifest", "store"])
def test_a_derived_file_turns_it_off_too(key: str, tmp_path: Path) -> None:
    base = Path(__file__).parents[2] / "configs" / "demo" / "base.yaml"
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump({"base": str(base), "data": {key: "own/place"}}))
    assert load_config(tmp_path / "mine.yaml").data.synthetic is None


def test_the_demo_makes_its_own() -> None:
    assert _config("lstm", Path("elsewhere"), 3).data.synthetic == "moving_shapes"


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_a_users_folder_is_left_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    own = tmp_path / "own"
    (own / "train").mkdir(parents=True)
    (own / "train" / "0000.mp4").write_bytes(b"mine")
    (own / "manifest.jsonl").write_text('{"path": "train/0000.mp4", "split": "train"}\n')
    before = contents(tmp_path)
    places = [f"data.manifest={own / 'manifest.jsonl'}", f"data.store={tmp_path / 'store'}"]
    out = ["--out", str(tmp_path.with_name("out"))]
    assert main(["train", "demo/lstm", *places, *out]) == 1
    assert capsys.readouterr().err.count("error:") == 1
    assert main(["train", "demo/lstm", *places, "data.synthetic=moving_shapes", *out]) == 1
    assert f"{own} is not empty" in capsys.readouterr().err
    assert contents(tmp_path) == before


def test_a_manifest_of_another_name_is_not_made(tmp_path: Path) -> None:
    places = [f"data.manifest={tmp_path / 'new' / 'mine.jsonl'}", f"data.store={tmp_path / 'store'}"]
    with pytest.raises(DataError, match=r"not .*mine\.jsonl"):
        prepare_data(load_config("demo/lstm", [*places, "data.synthetic=moving_shapes"]))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("kind", ["file", "hidden file", "place that is a file"])
def test_only_an_empty_folder_is_filled(kind: str, tmp_path: Path) -> None:
    folder = tmp_path / "videos"
    if kind == "place that is a file":
        folder.touch()
    else:
        folder.mkdir()
        (folder / ("x" if kind == "file" else ".x")).touch()
    with pytest.raises(DataError, match=f"{folder} is not empty"):
        write_moving_shapes(folder, counts=FEW)


def test_an_interrupted_making_is_continued_and_a_whole_one_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(*given: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("videoclip.synthetic.moving_shapes.write_manifest", stopped)
        write_moving_shapes(tmp_path, seed=5, counts=FEW)
    assert seed_of(tmp_path) is None
    write_moving_shapes(tmp_path, seed=5, counts=FEW)
    assert seed_of(tmp_path) == 5
    assert json.loads((tmp_path / MARKER).read_text())["version"] == 1


def test_markers_without_a_version_are_known(tmp_path: Path) -> None:
    manifest = write_moving_shapes(tmp_path, seed=5, counts=FEW)
    (tmp_path / MARKER).write_text(json.dumps({"seed": 5, "train": 1, "val": 1, "test": 1, "novel": 1}))
    written = manifest.stat().st_mtime_ns
    assert seed_of(tmp_path) == 5
    assert write_moving_shapes(tmp_path, seed=5, counts=FEW).stat().st_mtime_ns == written


@pytest.mark.parametrize("content", ["", "[]", "{", '{"seed": "x"}', "{}", "\ud800"])
def test_a_marker_that_cannot_be_read_is_named(content: str, tmp_path: Path) -> None:
    (tmp_path / MARKER).write_bytes(content.encode("utf-8", "surrogatepass"))
    with pytest.raises(DataError, match=MARKER):
        seed_of(tmp_path)
