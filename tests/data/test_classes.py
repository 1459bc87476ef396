"""Class lists, prompt templates and descriptions: shipped ones, and files of several forms."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from videoclip.config import shipped
from videoclip.data.annotations import read_lines
from videoclip.data.classes import classes_of, load_classes, phrase_of, sentences_about
from videoclip.data.manifest import Clip, read_manifest
from videoclip.data.readers import make_manifest
from videoclip.errors import DataError

COUNTS = {"hmdb51": 51, "kinetics400": 400, "kinetics600": 600, "motions": 11, "ucf101": 101, "weizmann": 10}
TEMPLATES = {
    "actionclip": 16,
    "clip_kinetics": 28,
    "clip_ucf101": 48,
    "name": 1,
    "person": 1,
    "video": 1,
    "vificlip": 1,
}


def test_shipped_lists_and_templates_have_their_sizes() -> None:
    assert {name: len(load_classes(name)) for name in shipped("classes", ".txt")} == COUNTS
    few = load_classes("weizmann").part(["walk", "run"])
    assert {n: len(sentences_about(few, n).texts[0]) for n in shipped("prompts", ".txt")} == TEMPLATES
    hashes = {sentences_about(few, name).fingerprint for name in TEMPLATES} | {few.fingerprint}
    assert len(hashes) == len(TEMPLATES) + 1 and all(re.fullmatch("[0-9a-f]{16}", h) for h in hashes)


def test_ucf101_reads_as_clip_wrote_it(shared: Path) -> None:
    classes = load_classes("ucf101")
    given = json.loads((shared / "annotations" / "clip_prompts" / "openai_prompts.json").read_text())["UCF101"]
    assert set(classes.phrases) == set(given["classes"])  # whose order is another one
    assert classes.phrases[classes.number("HammerThrow", "x")] == "Hammer Throw"
    assert [t[0] for t in sentences_about(classes, "clip_ucf101").texts][:1] == [
        "a photo of a person Apply Eye Makeup."
    ]
    assert (
        classes == load_classes(shared / "annotations" / "ucf101" / "classInd.txt")
        or classes.labels == load_classes(shared / "annotations" / "ucf101" / "classInd.txt").labels
    )


def test_numbers_of_vificlips_hmdb51_list_mean_what_its_file_names_say(shared: Path) -> None:
    """The table of names that goes round with such lists has kick and kick_ball, sword and sword_exercise the wrong way."""
    classes = load_classes("hmdb51")
    wrong = load_classes(shared / "annotations" / "hmdb51" / "hmdb_51_labels.csv")
    lines = [line.rsplit(maxsplit=1) for line in read_lines(shared / "annotations" / "hmdb51" / "vifi" / "val1.txt")]
    assert all(f"_{classes.labels[int(number)]}_" in f"_{name}" for name, number in lines)
    lost = {number for name, number in lines if f"_{wrong.labels[int(number)].replace(' ', '_')}_" not in f"_{name}"}
    assert {classes.labels[int(number)] for number in lost} == {"kick", "sword"}


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.txt", "# said\nwave_hand\twaving\nRunFast\n"),
        ("a.csv", "id,name,phrase\n0,wave_hand,waving\n1,RunFast,\n"),
        ("b.json", '{"wave_hand": "0", "RunFast": "1"}'),
        ("c.json", '{"1": "RunFast", "0": "wave_hand"}'),
        ("d.json", '["wave_hand", "RunFast"]'),
        ("classInd.txt", "1 wave_hand\n2 RunFast\n"),
    ],
)
def test_forms_of_class_lists(tmp_path: Path, name: str, content: str) -> None:
    (tmp_path / name).write_text(content)
    found = load_classes(tmp_path / name)
    assert found.labels == ("wave_hand", "RunFast") and found.phrases[1] == "Run Fast"
    assert found.phrases[0] == ("waving" if name.startswith("a") else "wave hand")


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda p: load_classes("ucf102"), "there are: hmdb51, kinetics400"),
        (lambda p: load_classes(p / "twice.txt"), "class 'a' stands twice"),
        (lambda p: load_classes(p / "empty.txt"), "holds no class"),
        (
            lambda p: sentences_about(load_classes("weizmann"), "clip"),
            "no shipped set of templates; there are: actionclip",
        ),
        (lambda p: sentences_about(load_classes("weizmann"), p / "plain.txt"), "'a photo' has no {} for the class"),
        (lambda p: sentences_about(load_classes("weizmann"), "none"), "needs --descriptions"),
        (lambda p: sentences_about(load_classes("weizmann"), "video", p / "few.json"), "describes no class 'bend'"),
        (lambda p: sentences_about(load_classes("weizmann"), "video", p / "bad.json"), "class -> list of sentences"),
        (
            lambda p: load_classes("weizmann").number("fly", "clip 'x'"),
            "clip 'x': class 'fly' is not in the list weizmann",
        ),
    ],
)
def test_mistakes_are_told(tmp_path: Path, call: object, message: str) -> None:
    for name, content in (
        ("twice.txt", "a\nb\na\n"),
        ("empty.txt", "# nothing\n"),
        ("plain.txt", "a photo\n"),
        ("few.json", '{"walk": ["goes"]}'),
        ("bad.json", '{"walk": "goes"}'),
    ):
        (tmp_path / name).write_text(content)
    with pytest.raises(DataError, match=re.escape(message)):
        call(tmp_path)  # type: ignore[operator]


def test_descriptions_join_the_templates(shared: Path) -> None:
    path = shared / "annotations" / "class_descriptions"
    ucf, hmdb = load_classes("ucf101"), load_classes("hmdb51")
    said = sentences_about(ucf, "vificlip", path / "ucf_20_prompts.json")
    assert {len(texts) for texts in said.texts} == {21} and said.texts[0][0] == "a photo of a Apply Eye Makeup."
    alone = sentences_about(hmdb, "none", path / "hmdb_20_prompts_0_51_api.json")
    assert min(len(texts) for texts in alone.texts) >= 19 and alone.fingerprint != said.fingerprint


def test_labels_become_words() -> None:
    assert [phrase_of(t) for t in ("YoYo", "brush_hair", "Holding [something]")] == [
        "Yo Yo",
        "brush hair",
        "Holding something",
    ]
    clips = [Clip(id=c, path=c, label=c) for c in ("b", "a", "b2")]
    assert classes_of(clips).labels == ("a", "b", "b2")


def test_readers_of_recognition_in_their_own_forms(tmp_path: Path) -> None:
    (tmp_path / "k").mkdir()
    (tmp_path / "k" / "train.csv").write_text("label,youtube_id,time_start,time_end,split\nyoga,abc,12,22,train\n")
    (tmp_path / "k" / "validate.csv").write_text(
        "label,youtube_id,time_start,time_end,split\nzumba,d-f,0,10,validate\n"
    )
    make_manifest("kinetics", tmp_path / "k", tmp_path, tmp_path / "k.jsonl")
    first, second = read_manifest(tmp_path / "k.jsonl")
    assert (first.id, first.label, first.split, first.group) == ("abc_000012_000022", "yoga", "train", "abc")
    assert (second.id, second.split) == ("d-f_000000_000010", "val")

    entry = {"id": "7", "label": "holding a cup", "template": "Holding [something]", "placeholders": ["a cup"]}
    (tmp_path / "something-something-v2-train.json").write_text(json.dumps([entry]))
    make_manifest("ssv2", tmp_path, tmp_path, tmp_path / "s.jsonl", "custom")
    (clip,) = read_manifest(tmp_path / "s.jsonl")
    assert (clip.label, clip.captions, clip.split) == ("Holding something", ("holding a cup",), "train")

    for name in ("walk/a_walk.mp4", "walk/b_walk.mp4", "run/a_run.mp4"):
        (tmp_path / "v" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "v" / name).touch()
    make_manifest("class_folders", tmp_path / "v", tmp_path / "v", tmp_path / "f.jsonl", group=r"/(\w+?)_")
    assert [(c.label, c.group) for c in read_manifest(tmp_path / "f.jsonl")] == [
        ("run", "a"),
        ("walk", "a"),
        ("walk", "b"),
    ]
    with pytest.raises(DataError, match="finds nothing in the id"):
        make_manifest("class_folders", tmp_path / "v", tmp_path / "v", tmp_path / "f.jsonl", group="z+")
    for name in ("train/walk/a.mp4", "test/run/b.mp4"):
        (tmp_path / "w" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "w" / name).touch()
    make_manifest("class_folders", tmp_path / "w", tmp_path / "w", tmp_path / "w.jsonl")
    assert [(c.split, c.label) for c in read_manifest(tmp_path / "w.jsonl")] == [("test", "run"), ("train", "walk")]
    (tmp_path / "v" / "stray.mp4").touch()
    with pytest.raises(DataError, match="lies in no folder of a class"):
        make_manifest("class_folders", tmp_path / "v", tmp_path / "v", tmp_path / "f.jsonl")


def test_numbers_of_a_list_get_names(tmp_path: Path) -> None:
    (tmp_path / "l.txt").write_text("a.mp4 1\nb.mp4 0\n")
    (tmp_path / "names.txt").write_text("walk\nrun\n")
    make_manifest("labels", tmp_path / "l.txt", tmp_path, tmp_path / "m.jsonl", classes=str(tmp_path / "names.txt"))
    assert [c.label for c in read_manifest(tmp_path / "m.jsonl")] == ["run", "walk"]
    (tmp_path / "l.txt").write_text("a.mp4 7\n")
    with pytest.raises(DataError, match="labels are numbers from 7 to 7; the list names has 0 .walk. to 1 .run."):
        make_manifest("labels", tmp_path / "l.txt", tmp_path, tmp_path / "m.jsonl", classes=str(tmp_path / "names.txt"))
