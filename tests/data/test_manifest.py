from __future__ import annotations

from pathlib import Path

import pytest

from videoclip.data.manifest import Clip, of_split, passed_over, read_manifest, write_manifest
from videoclip.errors import DataError


def test_round_trip_with_relative_paths(tmp_path: Path) -> None:
    clips = [
        Clip(id="a", path=tmp_path / "v" / "a.mp4", captions=("ein Hund", "a dog"), split="train", start=1.5, end=3),
        Clip(id="b", path=tmp_path / "v" / "b c.mp4", label="jump"),
    ]
    write_manifest(clips, tmp_path / "m.jsonl")
    assert '"path": "v/a.mp4"' in (tmp_path / "m.jsonl").read_text()
    assert read_manifest(tmp_path / "m.jsonl") == clips


def test_the_id_is_the_path_when_absent(tmp_path: Path) -> None:
    (tmp_path / "m.jsonl").write_text('{"path": "x/y.mp4"}\n\n')
    assert read_manifest(tmp_path / "m.jsonl") == [Clip(id="x/y.mp4", path=tmp_path / "x/y.mp4")]


def test_a_folder_is_a_manifest(tmp_path: Path) -> None:
    for name in ("b.MP4", "a/-dash.webm", "a/unicode ✓ name.mkv", "notes.txt", "a/cover.jpg", "sound.mp3"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    ids = [clip.id for clip in read_manifest(tmp_path)]
    assert ids == ["a/-dash.webm", "a/unicode ✓ name.mkv", "b.MP4", "sound.mp3"]
    assert passed_over(tmp_path) == {".txt": 1, ".jpg": 1}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "line 1"),
        ('{"path": "a.mp4"}\n{"path": "a.mp4"}', "more than once.*'a.mp4'"),
        ('{"id": "a"}', "line 1.*path"),
        ('{"path": "a.mp4", "caption": "x"}', "caption"),
        ('{"path": "a.mp4", "start": 5, "end": 2}', "end 2.0 is not after start 5.0"),
        ('{"path": "a.mp4", "captions": "not a list"}', "captions"),
        ("[1, 2]", "line 1"),
    ],
)
def test_mistakes_are_named(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "m.jsonl").write_text(content)
    with pytest.raises(DataError, match=message):
        read_manifest(tmp_path / "m.jsonl")


def test_missing_and_empty(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such manifest"):
        read_manifest(tmp_path / "absent.jsonl")
    with pytest.raises(DataError, match="no video"):
        read_manifest(tmp_path)


def test_unknown_split_names_the_known_ones(tmp_path: Path) -> None:
    clips = [Clip(path=Path("a"), split="train", captions=("x",)), Clip(path=Path("b"), split="val", captions=("x",))]
    with pytest.raises(DataError, match="'test'; its splits: train, val"):
        of_split(clips, "test", "m.jsonl")
