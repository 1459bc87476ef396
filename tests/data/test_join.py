"""Rows joined to files: the folders that a row names count, and a file is never taken for another of its name."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from videoclip.cli import main
from videoclip.data.join import join
from videoclip.data.manifest import read_manifest
from videoclip.data.readers import make_manifest
from videoclip.errors import DataError


def make(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


CASES = [
    # a row, the files there are, and the one that it is (None: none, or more than one)
    ("A/0.mp4", ["A/0.mp4", "B/0.mp4"], "A/0.mp4"),
    ("B/0.mp4", ["A/0.mp4"], None),
    ("B/0.mp4", ["0.mp4"], None),
    ("B/0", ["A/0.mp4", "B/0.mp4"], "B/0.mp4"),
    ("b/0.mp4", ["B/0.mp4"], None),
    ("test/B/0.mp4", ["train/B/0.mp4"], None),
    ("test/B/0.mp4", ["train/B/0.mp4", "test/B/0.mp4"], "test/B/0.mp4"),
    ("train/B/0.mp4", ["deep/train/B/0.mp4", "deep/test/B/0.mp4"], "deep/train/B/0.mp4"),
    ("old/disk/B/0.mp4", ["A/0.mp4", "B/0.mp4"], "B/0.mp4"),
    (r"C:\x\B\0.mp4", ["A/0.mp4", "B/0.mp4"], "B/0.mp4"),
    (r"C:\x\B\0.mp4", ["A/0.mp4"], None),
    (r"B\0.mp4", ["A/0.mp4", "B/0.mp4"], "B/0.mp4"),
    (r"\\server\share\B\0.mp4", ["part/A/0.mp4", "part/B/0.mp4"], "part/B/0.mp4"),
    ("/home/me/B/0.mp4", ["part/A/0.mp4", "part/B/0.mp4"], "part/B/0.mp4"),
    ("./B/0.mp4", ["A/0.mp4", "B/0.mp4"], "B/0.mp4"),
    ("0.mp4", ["A/0.mp4", "B/0.mp4"], None),
    ("0.mp4", ["0.mp4", "B/0.mp4"], "0.mp4"),
    ("0", ["0.mp4", "B/0.mp4"], "0.mp4"),
    ("0", ["deep/down/0.webm"], "deep/down/0.webm"),
    ("0", ["0.mp4", "0.webm"], None),
    ("0", ["0.mp4", "0.wav"], "0.mp4"),
    ("0.webm", ["0.mp4", "0.webm"], "0.webm"),
    ("B/0.avi", ["A/0.avi", "B/0.mp4"], "B/0.mp4"),
    ("0.MP4", ["x/0.mp4"], "x/0.mp4"),
    ("Ab", ["aB.mp4"], None),
    ("v1.2", ["v1.2.mp4", "v1.mp4"], "v1.2.mp4"),
    ("a.ts.x", ["a.ts.x.mp4", "a.mp4"], "a.ts.x.mp4"),
    ("12@N02_87ef.", ["12@N02_87ef.mp4"], "12@N02_87ef.mp4"),
    ("v_abc", ["abc.mp4"], "abc.mp4"),
    ("cafe\u0301.mp4", ["x/caf\u00e9.mp4"], "x/caf\u00e9.mp4"),
    ("a" * 300 + ".mp4", ["a.mp4"], None),
]


@pytest.mark.parametrize(("row", "files", "expected"), CASES)
def test_a_row_is_one_file_or_none(tmp_path: Path, row: str, files: list[str], expected: str | None) -> None:
    (joined,) = join([row], make(tmp_path, *files))
    assert joined.found == (expected is not None)
    if expected is None:
        assert not os.path.exists(joined.path)
    else:
        assert joined.path == tmp_path / expected


def test_rivals_and_namesakes_are_given(tmp_path: Path) -> None:
    make(tmp_path, "A/0.mp4", "B/0.mp4")
    shared, missing = join(["0.mp4", "C/0.mp4"], tmp_path)
    assert shared.rivals == (tmp_path / "A/0.mp4", tmp_path / "B/0.mp4")
    assert not missing.rivals
    assert missing.namesakes == shared.rivals


def test_what_all_absolute_rows_share_is_another_machines(tmp_path: Path) -> None:
    make(tmp_path, "x/train/B/0.mp4")
    train, test = join(["/data/train/B/0.mp4", "/data/test/B/0.mp4"], tmp_path)
    assert train.path == tmp_path / "x/train/B/0.mp4"
    assert not test.found


def test_an_absolute_path_that_exists_is_the_file(tmp_path: Path) -> None:
    make(tmp_path, "elsewhere/0.mp4", "videos/0.mp4")
    (joined,) = join([str(tmp_path / "elsewhere/0.mp4")], tmp_path / "videos")
    assert joined.path == tmp_path / "elsewhere/0.mp4"


def test_an_address_stays(tmp_path: Path) -> None:
    (joined,) = join(["s3://bucket/a.mp4"], tmp_path)
    assert joined.path == "s3://bucket/a.mp4"
    assert joined.found


ROWS = ["A/0.avi", "B/0.avi"]
READERS = {
    "csv": ("t.csv", "video,caption\nA/0.avi,x\nB/0.avi,y\n"),
    "jsonl": ("t.jsonl", "".join(json.dumps({"video": row}) + "\n" for row in ROWS)),
    "labels": ("t.txt", "A/0.avi 0\nB/0.avi 1\n"),
    "ucf101": ("trainlist01.txt", "A/0.avi 1\nB/0.avi 2\n"),
    "hmdb51": ("A_test_split1.txt", "0.avi 1\n"),
    "msvd": ("train_list.txt", "A/0.avi\nB/0.avi\n"),
    "vificlip": ("train1_few_shot_16.txt", "A/0.avi 0\nB/0.avi 1\n"),
    "msrvtt": ("MSRVTT_train.9k.csv", "video_id\nA/0.avi\nB/0.avi\n"),
}


@pytest.mark.parametrize("reader", READERS)
def test_every_reader_counts_the_missing_as_missing(tmp_path: Path, reader: str) -> None:
    name, text = READERS[reader]
    make(tmp_path, "v/A/0.avi", "l/x.txt")
    (tmp_path / "l" / name).write_text(text)
    if reader == "hmdb51":
        (tmp_path / "l" / "B_test_split1.txt").write_text(text)
    annotations = tmp_path / "l" / name if reader in ("csv", "jsonl", "labels") else tmp_path / "l"
    made = make_manifest(reader, annotations, tmp_path / "v", tmp_path / "m.jsonl", "custom")
    assert [missing for missing in made.missing.values() if missing] == [["B/0.avi"]]
    assert [Path(c.path).relative_to(tmp_path) for c in read_manifest(tmp_path / "m.jsonl")] == [
        Path("v/A/0.avi"),
        Path("v/B/0.avi"),
    ]
    assert "in another, the first is 'B/0.avi': A/0.avi" in "\n".join(made.notes)


def test_shared_names_are_counted_with_both_files(tmp_path: Path) -> None:
    make(tmp_path, "v/A/0.mp4", "v/B/0.mp4", "v/C/1.mp4")
    (tmp_path / "t.csv").write_text("video,caption\n0,x\n1,y\n")
    made = make_manifest("csv", tmp_path / "t.csv", tmp_path / "v", tmp_path / "m.jsonl")
    assert made.missing == {"": ["0"]}
    assert made.notes == ["1 clips fit several files and count as missing, the first is '0': A/0.mp4 and B/0.mp4"]


def test_missing_clips_are_dropped_on_request(tmp_path: Path) -> None:
    make(tmp_path, "v/b.mp4")
    (tmp_path / "t.csv").write_text("video,caption,split\na.mp4,x,test\nb.mp4,y,train\nc.mp4,z,train\n")
    made = make_manifest("csv", tmp_path / "t.csv", tmp_path / "v", tmp_path / "m.jsonl", drop_missing=True)
    assert [clip.id for clip in read_manifest(tmp_path / "m.jsonl")] == ["b.mp4"]
    assert made.missing == {"test": ["a.mp4"], "train": ["c.mp4"]}


@pytest.mark.parametrize(
    ("more", "said", "ids"),
    [
        ([], "1 of them have no video file, the first is 'a.mp4'", ["a.mp4", "b.mp4"]),
        (["--drop-missing"], "1 others are left out, they have no video file, the first is 'a.mp4'", ["b.mp4"]),
    ],
)
def test_the_command_counts_what_is_missing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], more: list[str], said: str, ids: list[str]
) -> None:
    make(tmp_path, "v/b.mp4")
    (tmp_path / "t.csv").write_text("video,caption\na.mp4,x\nb.mp4,y\n")
    options = {"annotations": "t.csv", "videos": "v", "out": "m.jsonl"}
    arguments = [part for name, file in options.items() for part in (f"--{name}", str(tmp_path / file))]
    assert main(["manifest", "csv", *arguments, *more]) == 0
    assert said in capsys.readouterr().out
    assert [clip.id for clip in read_manifest(tmp_path / "m.jsonl")] == ids


def test_nothing_is_written_when_everything_is_missing(tmp_path: Path) -> None:
    make(tmp_path, "v/b.mp4")
    (tmp_path / "t.csv").write_text("video,caption\na.mp4,x\n")
    with pytest.raises(DataError, match="no clip has a video file"):
        make_manifest("csv", tmp_path / "t.csv", tmp_path / "v", tmp_path / "m.jsonl", drop_missing=True)
    assert not (tmp_path / "m.jsonl").exists()
