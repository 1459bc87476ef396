"""Lists and tables as people write them: other separators, quotes, encodings, numbers and times."""

from __future__ import annotations

import codecs
from pathlib import Path

import pytest

from videoclip.data.annotations import read_table, split_line
from videoclip.data.classes import load_classes, sentences_about
from videoclip.data.manifest import Clip, read_manifest, seconds_of
from videoclip.data.readers import make_manifest
from videoclip.errors import DataError


def made(folder: Path, reader: str, text: str | bytes, name: str, classes: str = "", **more: str) -> list[Clip]:
    """The clips of an annotation file."""
    (folder / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    if "\n" in classes:
        (folder / "classes.txt").write_text(classes)
        classes = str(folder / "classes.txt")
    more["classes"] = classes
    make_manifest(reader, folder / name, folder, folder / "m.jsonl", **more)  # type: ignore[arg-type]
    return read_manifest(folder / "m.jsonl")


@pytest.mark.parametrize(
    ("line", "name", "cells"),
    [
        ("drinking (31).mp4 0", "drinking (31).mp4", ["0"]),
        ("a b.mp4\t3", "a b.mp4", ["3"]),
        ("lecture31.mp4,1", "lecture31.mp4", ["1"]),
        ("lecture31.mp4, 1, 2", "lecture31.mp4", ["1", "2"]),
        ("one, two.mp4;1", "one, two.mp4", ["1"]),
        ('"one, two.mp4",1', "one, two.mp4", ["1"]),
        ('"say ""hi"".mp4" 1', 'say "hi".mp4', ["1"]),
        ("a.mp4 brush hair", "a.mp4", ["brush hair"]),
        ("a.mp4 Hitting something, softly", "a.mp4", ["Hitting something, softly"]),
        ('a.mp4,"Hitting something, softly"', "a.mp4", ["Hitting something, softly"]),
        ("a.mp4 0 2 4", "a.mp4", ["0", "2", "4"]),
        (r"C:\my videos\B\0.MP4 1", r"C:\my videos\B\0.MP4", ["1"]),
        ("wONwHYy59Tc 193 12", "wONwHYy59Tc", ["193", "12"]),
        ("my clip\t4", "my clip", ["4"]),
        ("abc walk", "abc", ["walk"]),
        ("x.mp4", "x.mp4", []),
    ],
)
def test_lines_of_lists(line: str, name: str, cells: list[str]) -> None:
    assert split_line(line) == (name, cells)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("my clip 3\n", r"l.txt, line 1: spaces leave open where the file name ends"),
        ("video,label\na.mp4,1\n", r"l.txt, line 1: 'video' is not the name of a video"),
        ("a.mp4 1\na.mp4 2\n", "'a.mp4' has the labels '1' and '2'"),
    ],
)
def test_lines_that_cannot_be_split_are_named(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        made(tmp_path, "labels", text, "l.txt")


@pytest.mark.parametrize(
    ("text", "captions"),
    [
        ('video\tcaption\na\t"hello" he said\nb\tx "\n', ['"hello" he said', 'x "']),
        ('video\tcaption\na\t"hello he said\nb\tx\n', ['"hello he said', "x"]),
        ('video\tcaption\na\t"say ""hi"""\nb\tx\n', ['say "hi"', "x"]),
        ('video\tcaption\na\t"two\nlines"\nb\t"a\ttab"\n', ["two\nlines", "a\ttab"]),
        ('video,caption\na,"two\nlines"\nb,5" wide\n', ["two\nlines", '5" wide']),
        ("video,caption\r\na,x\r\n\r\nb,y\r\n,\r\n", ["x", "y"]),
        ("video,caption\na,one\u2028two\nb,three\x85four\n", ["one\u2028two", "three\x85four"]),
        (" video , caption \na,x\nb,y\n", ["x", "y"]),
    ],
)
def test_cells_of_tables(tmp_path: Path, text: str, captions: list[str]) -> None:
    (tmp_path / "t.tsv").write_bytes(text.encode())
    assert [row["caption"] for row in read_table(tmp_path / "t.tsv", ["video"])] == captions


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('video,caption\na,"open\nb,y\nc,z\n', "t.csv, line 4: unexpected end of data"),
        ('video,caption\na,"hi" he said\n', "t.csv, line 2: .*quotes doubled"),
        ("video,caption,caption\na,x,y\n", "t.csv: names the column 'caption' twice"),
        ("video,caption\na,x,y\n", r"t.csv, line 2: has another number of cells \(3\)"),
        ("", "t.csv: is empty"),
        ("video;caption\na;x\n", "t.csv, row 1: names no video"),
        ("video,caption\n,x\n", "t.csv, row 1: names no video"),
        ("video,caption,start,end\na.mp4,x,soon,2\n", r"t.csv, row 1: start 'soon' is not a time .*m:ss"),
        ("video,caption,end\na.mp4,x,1\nb.mp4,x,nan\n", "t.csv, row 2: end nan is not a time"),
        ("video,caption,start,end\na.mp4,x,0:05,0:01\n", "t.csv, row 1: end 1.0 is not after start 5.0"),
        (b"video,caption\na.mp4,a caf\xe9\n", "t.csv: line 2 is not UTF-8 text .*encoding UTF-8"),
        (codecs.BOM_UTF16_LE + "video,caption\na,b\n".encode("utf-16-le"), "t.csv: line 1 is not UTF-8 text"),
        ("video,caption\na\0b.mp4,x\n", "t.csv, row 1: path 'a.x00b.mp4' is not the name of a file"),
    ],
)
def test_what_is_wrong_with_a_table_is_a_sentence(tmp_path: Path, text: str | bytes, message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        made(tmp_path, "csv", text, "t.csv")
    assert "pydantic" not in str(caught.value) and "validation" not in str(caught.value)


@pytest.mark.parametrize(
    ("reader", "name", "text"),
    [
        ("jsonl", "t.jsonl", '{"video": "a", "caption": 5}\n'),
        ("jsonl", "t.jsonl", '{"video": ["a"]}\n'),
        ("jsonl", "t.jsonl", "[" * 100_000 + "\n"),
        ("jsonl", "t.json", "[1, 2]"),
        ("jsonl", "t.json", "5"),
        ("jsonl", "t.json", '{"a": [1]}'),
        ("labels", "t.json", "[]"),
        ("labels", "t.json", '{"a.mp4": true}'),
        ("kinetics", "t.csv", "label,youtube_id,time_start,time_end\nyoga,abc,x,22\n"),
        ("ssv2", "something-something-v2-train.json", '[{"id": "7"}]'),
        ("activitynet", "train.json", '{"v_1": {"sentences": 5}}'),
        ("activitynet", "train.json", '{"v_1": '),
        ("vatex", "vatex_training_v1.0.json", '[{"videoID": "x", "enCap": 7}]'),
    ],
)
def test_wrong_types_are_a_sentence_with_the_file(tmp_path: Path, reader: str, name: str, text: str) -> None:
    with pytest.raises(DataError, match=r"\.") as caught:
        made(tmp_path, reader, text, name, protocol="custom")
    sentence = str(caught.value)
    assert str(tmp_path) in sentence
    assert "pydantic" not in sentence and "\n" not in sentence


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("0:01", 1), ("75:10", 4510), ("1:00:01.5", 3601.5), ("12.5", 12.5), (" 0:05 ", 5), ("00:00:03.250", 3.25)],
)
def test_times(text: str, seconds: float) -> None:
    assert seconds_of(text) == seconds


@pytest.mark.parametrize("text", ["0:61", "1:75:00", "1:2:3:4", "-0:01", "a:01", "", "0:0x", ":30"])
def test_what_is_not_a_time(text: str) -> None:
    with pytest.raises(ValueError, match="is not a time"):
        seconds_of(text)


def test_times_are_read_wherever_there_are_some(tmp_path: Path) -> None:
    (clip,) = made(tmp_path, "csv", "video,caption,start,end\na.mp4,x,0:00,1:00:01.5\n", "t.csv")
    assert (clip.start, clip.end) == (0, 3601.5)
    (tmp_path / "own.jsonl").write_text('{"path": "a.mp4", "start": "0:01", "end": "0:02"}\n')
    assert read_manifest(tmp_path / "own.jsonl")[0].start == 1
    (clip,) = made(tmp_path, "kinetics", "label,youtube_id,time_start,time_end\nyoga,abc,0:12,0:22\n", "train.csv")
    assert clip.id == "abc_000012_000022"
    (clip,) = made(
        tmp_path, "youcook2", "end,start,text,video_id\n1:09,0:03,cut,y\n", "validation_youcook.csv", protocol="custom"
    )
    assert (clip.start, clip.end) == (3, 69)


def test_how_times_with_a_colon_are_read_is_reported(tmp_path: Path) -> None:
    """A spreadsheet makes 0:01:00 of one minute that was typed as 0:01 and taken for hours and minutes."""
    (tmp_path / "t.csv").write_text("video,caption,start,end\na.mp4,x,0,1\nb.mp4,x,0,0:01\n")
    notes = make_manifest("csv", tmp_path / "t.csv", tmp_path, tmp_path / "m.jsonl").notes
    assert notes == ["row 2: end '0:01' is read as 1 s, as m:ss or h:mm:ss, and so are all times with a colon"]


@pytest.mark.parametrize("source", ["a" * 300, "a" * 300 + "/b", "a\0b"])
def test_names_that_no_system_takes_are_a_sentence(tmp_path: Path, source: str) -> None:
    with pytest.raises(DataError):
        load_classes(source)
    with pytest.raises(DataError, match="there is no such manifest"):
        read_manifest(source)
    with pytest.raises(DataError):
        made(tmp_path, "labels", "a.mp4 1\n", "l.txt", source)
    with pytest.raises(DataError, match="there is no such file or folder"):
        make_manifest("csv", source, tmp_path, tmp_path / "m.jsonl")


THREE = "walk\nrun\njump\n"


@pytest.mark.parametrize(
    ("classes", "lines", "labels"),
    [
        (THREE, "a.mp4 0\nb.mp4 2\n", ["walk", "jump"]),
        ("1 walk\n2 run\n3 jump\n", "a.mp4 1\nb.mp4 3\n", ["walk", "jump"]),
        ("3 jump\n1 walk\n2 run\n", "a.mp4 1\nb.mp4 3\n", ["walk", "jump"]),
        ("1\twalking\n2\trunning\n3\tjumping\n", "a.mp4 1\nb.mp4 3\n", ["1", "3"]),
        ("Walk\nrun\njump\n", "a.mp4 walk\nb.mp4 JUMP\n", ["Walk", "jump"]),
    ],
)
def test_numbers_are_those_of_the_list(tmp_path: Path, classes: str, lines: str, labels: list[str]) -> None:
    assert [clip.label for clip in made(tmp_path, "labels", lines, "l.txt", classes)] == labels


@pytest.mark.parametrize(
    ("classes", "lines"),
    [(THREE, "a.mp4 1\nb.mp4 3\n"), ("1 walk\n2 run\n3 jump\n", "a.mp4 0\nb.mp4 1\n"), (THREE, "a.mp4 12345678901\n")],
)
def test_a_number_out_of_range_is_an_error(tmp_path: Path, classes: str, lines: str) -> None:
    with pytest.raises(DataError, match=r"labels are numbers from \d+ to \d+; the list classes has [01] .walk. to"):
        made(tmp_path, "labels", lines, "l.txt", classes)


def test_numbers_and_empty_classes_are_reported(tmp_path: Path) -> None:
    (tmp_path / "l.txt").write_text("a.mp4 1\nb.mp4 2\n")
    (tmp_path / "c.txt").write_text(THREE)
    found = make_manifest("labels", tmp_path / "l.txt", tmp_path, tmp_path / "m.jsonl", classes=str(tmp_path / "c.txt"))
    assert found.notes == [
        "labels are numbers from 1 to 2; the list c has 0 (walk) to 2 (jump)",
        "1 classes without a clip: walk",
    ]


@pytest.mark.parametrize(
    ("name", "text", "labels"),
    [
        ("c.txt", "2 handed wave\nclap\n", ["2 handed wave", "clap"]),
        ("c.txt", "1 handed wave\n2 handed wave\n", ["1 handed wave", "2 handed wave"]),
        ("c.txt", "0 wave\n1 brush hair\n", ["wave", "brush hair"]),
        ("c.txt", "5 wave\n7 clap\n", ["5 wave", "7 clap"]),
        ("c.txt", "a\u2028b\nc\x85d\n", ["a\u2028b", "c\x85d"]),
        ("c.csv", "id,name\n1,clap\n0,wave\n", ["wave", "clap"]),
        ("c.csv", "id,name\n17,clap\n4,wave\n", ["clap", "wave"]),
        ("c.json", '{"wave": 1, "clap": 2}', ["wave", "clap"]),
    ],
)
def test_class_names_and_their_numbers(tmp_path: Path, name: str, text: str, labels: list[str]) -> None:
    (tmp_path / name).write_text(text)
    assert list(load_classes(tmp_path / name).labels) == labels


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("c.json", '{"wave": 0, "clap": 0}', "must follow each other"),
        ("c.json", '{"wave": "x"}', "'x' is not the number of a class"),
        ("c.json", "5", "a JSON class list is"),
        ("c.json", "[[1]]", "a JSON class list is"),
        ("c.json", '{"wave', "c.json: is not a JSON file"),
        ("c.txt", b"caf\xe9\n", "c.txt: line 1 is not UTF-8 text"),
        ("c.csv", b"name\ncaf\xe9\n", "c.csv: line 2 is not UTF-8 text"),
    ],
)
def test_class_lists_that_are_refused(tmp_path: Path, name: str, text: str | bytes, message: str) -> None:
    (tmp_path / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(DataError, match=message):
        load_classes(tmp_path / name)


@pytest.mark.parametrize("what", ["templates", "descriptions"])
@pytest.mark.parametrize("content", [b"\xff\xfe", b"a photo\xe9 of {}"])
def test_prompts_that_are_not_utf8_are_a_sentence(tmp_path: Path, what: str, content: bytes) -> None:
    (tmp_path / "p").write_bytes(content)
    with pytest.raises(DataError, match="p: line 1 is not UTF-8 text"):
        sentences_about(load_classes("weizmann"), **{what: tmp_path / "p"})


@pytest.mark.parametrize(
    ("name", "reader", "text"),
    [("t.csv", "csv", "video,caption\na,x\n"), ("t.txt", "labels", "a.mp4 1\n"), ("t.json", "jsonl", '{"a": "x"}')],
)
def test_byte_order_marks_of_annotations(tmp_path: Path, name: str, reader: str, text: str) -> None:
    assert made(tmp_path, reader, codecs.BOM_UTF8 + text.encode(), name)[0].id in ("a", "a.mp4")


@pytest.mark.parametrize(("name", "text"), [("c.txt", "wave\n"), ("c.csv", "name\nwave\n"), ("c.json", '["wave"]')])
def test_byte_order_marks_of_class_lists(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_bytes(codecs.BOM_UTF8 + text.encode())
    assert load_classes(tmp_path / name).labels == ("wave",)


def test_byte_order_marks_of_manifests_and_prompts(tmp_path: Path) -> None:
    (tmp_path / "m.jsonl").write_bytes(codecs.BOM_UTF8 + b'{"path": "a.mp4"}\r\n')
    (tmp_path / "p.txt").write_bytes(codecs.BOM_UTF8 + b"# a comment\r\na {}\r\n")
    assert read_manifest(tmp_path / "m.jsonl")[0].id == "a.mp4"
    assert sentences_about(load_classes("weizmann").part(["walk"]), tmp_path / "p.txt").texts == (("a walking",),)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("mydata.csv", "video,caption\na.mp4,x\n", "line 1: is not JSON .*videoclip manifest csv"),
        ("list.txt", "a.mp4 1\n", "line 1: is not JSON .*videoclip manifest labels"),
        ("m.jsonl", '{"path": "a", "start": 1e999}', "start inf is not a time"),
        ("m.jsonl", '{"path": ""}', "path '' is not the name of a file"),
        ("m.jsonl", '{"path": ["a"]}', "path .'a'. is not the name of a file"),
        ("m.jsonl", '{"path": "a", "captions": ["x", 3]}', "captions 3 is not a list of texts"),
        ("m.jsonl", '{"path": "a", "caption": "x"}', "'caption'; did you mean 'captions'"),
        ("m.jsonl", "[" * 100_000, "line 1: is nested too deep"),
        ("a.mp4", "", "is a video, not a manifest"),
    ],
)
def test_what_is_not_a_manifest_says_what_to_do(tmp_path: Path, name: str, content: str, message: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(DataError, match=message):
        read_manifest(tmp_path / name)
