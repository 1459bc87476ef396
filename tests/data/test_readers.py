"""Annotation files of the benchmarks: real ones where they are at hand, small ones of their form everywhere."""

from __future__ import annotations

import csv
import json
import shutil
from collections import Counter
from pathlib import Path

import pytest

from videoclip.cli import main
from videoclip.config import shipped
from videoclip.data.manifest import Clip, read_manifest
from videoclip.data.protocol import CUSTOM, content_hash, load_protocol
from videoclip.data.readers import make_manifest, names, protocols_of
from videoclip.errors import DataError

# reader, folder, protocol, and what each split must hold: clips and captions.
REAL = [
    ("msrvtt", "msrvtt", "msrvtt_1k_a", {"train": (9000, 0), "test": (1000, 1000)}),
    ("msrvtt", "msrvtt", "msrvtt_1k_a_7k", {"test": (1000, 1000)}),
    ("msrvtt", "msrvtt", "msrvtt_full", {"train": (6513, 0), "val": (497, 0), "test": (2990, 0)}),
    ("msvd", "msvd", "msvd", {"train": (1200, 48774), "val": (100, 4290), "test": (670, 27763)}),
    ("didemo", "didemo", "didemo_paragraph", {"test": (1004, 1004)}),
    ("activitynet", "activitynet_captions", "custom", {"train": (1500, 1500), "test": (4917, 4917)}),
    ("vatex", "vatex", "vatex", {"val": (1500, 0), "test": (1500, 0)}),
    ("youcook2", "youcook2", "youcook2", {"test": (3350, 3350)}),
    ("qvhighlights", "qvhighlights", "qvhighlights", {"val": (1519, 1550)}),
    ("ucf101", "ucf101", "ucf101_split1", {"train": (9537, 0), "test": (3783, 0)}),
    ("ucf101", "ucf101", "ucf101_split2", {"test": (3734, 0)}),
    ("hmdb51", "hmdb51/testTrainMulti_7030_splits", "hmdb51_split1", {"train": (3570, 0), "test": (1530, 0)}),
    ("vificlip", "ucf101/vifi", "vifi_ucf101_2_shot", {"train": (202, 0), "test": (3783, 0)}),
    ("vificlip", "ucf101/vifi", "vifi_ucf101_16_shot", {"train": (1616, 0), "test": (3783, 0)}),
    (
        "vificlip",
        "ucf101/vifi_base2novel",
        "vifi_ucf101_base_to_novel",
        {"train": (816, 0), "base": (2088, 0), "novel": (1695, 0)},
    ),
    ("vificlip", "hmdb51/vifi", "vifi_hmdb51_2_shot", {"train": (102, 0), "test": (1530, 0)}),
    ("vificlip", "ssv2", "vifi_ssv2_2_shot", {"train": (348, 0), "test": (24777, 0)}),
    ("vificlip", "kinetics", "vifi_kinetics400", {"test": (19877, 0)}),
    ("labels", "kinetics/vifi_k400_val.txt", None, {"": (19877, 0)}),
    ("labels", "kinetics/ZS_split1_K600_eval.first3000.txt", None, {"": (3000, 0)}),
    ("labels", "ssv2/vifi_validation.txt", None, {"": (24777, 0)}),
    ("labels", "ssv2/train1_few_shot_2.txt", None, {"": (348, 0)}),
    ("labels", "ucf101/vifi/val1.txt", None, {"": (3783, 0)}),
    ("labels", "ucf101/vifi/train1_few_shot_2.txt", None, {"": (202, 0)}),
    ("labels", "ucf101/vifi/train1_few_shot_16.txt", None, {"": (1616, 0)}),
    ("labels", "ucf101/vifi_base2novel/fs_base_s1_train.txt", None, {"": (816, 0)}),
    ("labels", "ucf101/vifi_base2novel/base_val.txt", None, {"": (2088, 0)}),
    ("labels", "ucf101/vifi_base2novel/novel_val.txt", None, {"": (1695, 0)}),
    ("labels", "hmdb51/vifi/val1.txt", None, {"": (1530, 0)}),
    ("labels", "hmdb51/vifi/train1_few_shot_2.txt", None, {"": (102, 0)}),
    ("labels", "activitynet_classes/anet_val_video_fps1.txt", None, {"": (4926, 0)}),
    ("labels", "predictions/ucf_gt.json", None, {"": (3782, 0)}),
    ("labels", "mmaction2_dialects/rawframe_test_list.txt", None, {"": (1, 0)}),
    ("labels", "mmaction2_dialects/rawframe_test_list_with_offset.txt", None, {"": (1, 0)}),
    ("labels", "mmaction2_dialects/video_test_list.txt", None, {"": (1, 0)}),
    ("labels", "mmaction2_dialects/video_test_list_multi_label.txt", None, {"": (1, 0)}),
    ("labels", "mmaction2_dialects/rawframe_test_list_multi_label.txt", None, {"": (1, 0)}),
    ("jsonl", "mmaction2_dialects/video_text_test_list.json", None, {"": (1, 2)}),
]


def counts(clips: list[Clip]) -> dict[str, tuple[int, int]]:
    videos = Counter(clip.split for clip in clips)
    return {s: (n, sum(len(c.captions) for c in clips if c.split == s)) for s, n in videos.items()}


def size(expected: dict[str, tuple[int, int]]) -> int:
    """Count what a real file holds: its time to be read and written."""
    return sum(clips + captions for clips, captions in expected.values())


@pytest.mark.parametrize(
    ("reader", "where", "protocol", "expected"),
    [pytest.param(*case, marks=[pytest.mark.slow] if size(case[-1]) > 2500 else []) for case in REAL],
)
def test_real_files_have_the_counts_of_their_sources(
    shared: Path, tmp_path: Path, reader: str, where: str, protocol: str | None, expected: dict[str, tuple[int, int]]
) -> None:
    made = make_manifest(reader, shared / "annotations" / where, tmp_path, tmp_path / "m.jsonl", protocol)
    clips = read_manifest(tmp_path / "m.jsonl")
    assert counts(clips) == expected
    assert {split: len(ids) for split, ids in made.missing.items()} == {s: n for s, (n, _) in expected.items()}
    assert made.protocol.name == (protocol or "custom")


def test_each_card_is_checked_against_a_real_file_where_there_is_one() -> None:
    hashed = {name for name in shipped("protocol") if any(s.ids for s in load_protocol(name).splits.values())}
    checked = {protocol for _, _, protocol, _ in REAL} | {"activitynet_paragraph_val1"}
    assert hashed == checked - {None, "custom"}


def test_every_card_names_a_reader_and_whom_its_files_come_from() -> None:
    wanted = {"msrvtt", "msvd", "didemo", "activitynet", "vatex", "lsmdc", "youcook2", "charades"}
    assert wanted <= {load_protocol(name).reader for name in shipped("protocol")} <= set(names())
    for name in shipped("protocol"):
        card = load_protocol(name)
        assert card.name == name and card.about and protocols_of(card.reader)
        assert {file for split in card.splits.values() for file in split.files} <= set(card.files)
        assert not card.captions or card.captions in card.files
    assert protocols_of("msrvtt")[0] == "msrvtt_1k_a"


def test_activitynet_val_1_is_the_cards_and_a_part_of_train_is_refused(shared: Path, tmp_path: Path) -> None:
    arguments = ("activitynet", shared / "annotations" / "activitynet_captions", tmp_path, tmp_path / "m.jsonl")
    assert make_manifest(*arguments, splits=["test"]).protocol.name == "activitynet_paragraph_val1"
    with pytest.raises(DataError, match="has 10009 videos and 10009 texts, but 1500 videos and 1500 texts were found"):
        make_manifest(*arguments)


@pytest.fixture
def msrvtt(tmp_path: Path) -> Path:
    """The 1k-A test list, as CLIP2Video's authors give it under MIT."""
    shutil.copytree(Path(__file__).parent / "annotations", tmp_path / "annotations")
    return tmp_path / "annotations"


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda lines: lines[:-1], r"has 1000 videos and 1000 texts, but 999 videos and 999 texts were found"),
        (lambda lines: [lines[0], *lines[:0:-1]], r"its ids or their order are others \(hash \w+, expected \w+\)"),
        (lambda lines: [lines[0], lines[1].replace("connecting", "taking"), *lines[2:]], "captions or their order"),
        (lambda lines: [lines[0], *lines[1:-1], lines[-1] + ",more"], "another number of cells"),
        (lambda lines: ["key,video", *lines[1:]], "has no column video_id"),
    ],
)
def test_spoiled_lists_are_refused(msrvtt: Path, tmp_path: Path, spoil: object, message: str) -> None:
    path = msrvtt / "MSRVTT_JSFUSION_test.csv"
    path.write_text("\n".join(spoil(path.read_text().splitlines())) + "\n")  # type: ignore[operator]
    with pytest.raises(DataError, match=message):
        make_manifest("msrvtt", msrvtt, tmp_path, tmp_path / "m.jsonl")
    assert not (tmp_path / "m.jsonl").exists()


def test_the_wrong_split_is_refused_in_evaluation_too(
    shared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A manifest whose test split is the full one, checked as 1k-A before anything is scored."""
    make_manifest("msrvtt", shared / "annotations" / "msrvtt", tmp_path, tmp_path / "m.jsonl", "msrvtt_full")
    arguments = ["evaluate", "nowhere", "--manifest", str(tmp_path / "m.jsonl"), "--store", "nowhere"]
    assert main([*arguments, "--protocol", "msrvtt_1k_a"]) == 1
    assert "has 1000 videos and 1000 texts, but 2990 videos and 0 texts were found" in capsys.readouterr().err


def test_the_command_says_what_is_missing_and_whose_it_is(
    msrvtt: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    videos = tmp_path / "videos" / "deep"
    videos.mkdir(parents=True)
    (videos / "video9770.webm").touch()
    arguments = [
        "manifest",
        "msrvtt",
        "--annotations",
        msrvtt,
        "--videos",
        videos.parent,
        "--out",
        tmp_path / "m.jsonl",
    ]
    assert main(list(map(str, arguments))) == 0
    out = capsys.readouterr().out
    assert "test: 1000 clips, 1000 captions, as protocol msrvtt_1k_a has them" in out
    assert "test: 999 of them have no video file, the first is 'video9771'" in out
    assert "train: left out, MSRVTT_train.9k.csv is not there; it comes from CLIP4Clip's authors" in out
    clips = read_manifest(tmp_path / "m.jsonl")
    assert clips[0].path == videos / "video9770.webm" and not Path(clips[1].path).exists()


def test_captions_of_msrvtt_lists_come_from_its_json(tmp_path: Path) -> None:
    (tmp_path / "MSRVTT_train.9k.csv").write_text("video_id\nvideo1\nvideo0\n")
    sentences = [{"sen_id": n, "video_id": f"video{n % 2}", "caption": f"caption {n}"} for n in range(4)]
    (tmp_path / "MSRVTT_data.json").write_text(json.dumps({"videos": [], "sentences": sentences}))
    make_manifest("msrvtt", tmp_path, tmp_path, tmp_path / "m.jsonl", "custom")
    clips = read_manifest(tmp_path / "m.jsonl")
    assert [clip.captions for clip in clips] == [("caption 1", "caption 3"), ("caption 0", "caption 2")]


def test_paragraphs_and_stretches(tmp_path: Path) -> None:
    moments = [{"video": v, "description": d} for v, d in (("a.mov", "first."), ("b.", "other."), ("a.mov", " then. "))]
    (tmp_path / "test_data.json").write_text(json.dumps(moments))
    (tmp_path / "test_list.txt").write_text("a.mov\nb.\n")
    (tmp_path / "b.mp4").touch()
    made = make_manifest("didemo", tmp_path, tmp_path, tmp_path / "m.jsonl", "custom")
    first, second = read_manifest(tmp_path / "m.jsonl")
    assert first.captions == ("first. then.",) and (first.start, first.end) == (0, 30)
    assert second.id == "b." and second.path == tmp_path / "b.mp4" and made.missing == {"test": ["a.mov"]}


def test_lsmdc_and_charades_and_vatex_and_youcook2_in_their_own_forms(tmp_path: Path) -> None:
    """Of these no official file could be kept: made-up rows of the documented form."""
    rows = [
        "0001_Film_00.00.51.926-00.00.54.129\t0\t1\t0\t1\tSOMEONE runs.",
        "0001_Film_00.01-00.02\t0\t1\t0\t1\tA car.",
    ]
    (tmp_path / "LSMDC16_annos_val.csv").write_text("\n".join(rows))
    videos = tmp_path / "videos" / "0001_Film"
    videos.mkdir(parents=True)
    (videos / "0001_Film_00.00.51.926-00.00.54.129.avi").touch()
    made = make_manifest("lsmdc", tmp_path, tmp_path / "videos", tmp_path / "l.jsonl", "custom")
    assert [c.captions for c in made.clips["val"]] == [("SOMEONE runs.",), ("A car.",)]
    assert made.missing == {"val": ["0001_Film_00.01-00.02"]}
    (tmp_path / "LSMDC16_annos_val.csv").write_text("one\ttwo\n")
    with pytest.raises(DataError, match="line 1: expected 6 cells between tabs, found 2"):
        make_manifest("lsmdc", tmp_path, tmp_path, tmp_path / "l.jsonl", "custom")

    with (tmp_path / "Charades_v1_test.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["id", "subject", "script"], ["46GP8", "HR43", "A person, laughing, walks."]])
    clip = make_manifest("charades", tmp_path, tmp_path, tmp_path / "c.jsonl", "custom").clips["test"][0]
    assert (clip.id, clip.captions) == ("46GP8", ("A person, laughing, walks.",))

    entries = [
        {"videoID": f"abc_00000{n}_000010", "enCap": [f"{n} {k}" for k in range(10)], "chCap": []} for n in range(3)
    ]
    (tmp_path / "vatex_validation_v1.0.json").write_text(json.dumps(entries))
    (tmp_path / "vatex_training_v1.0.json").write_text(json.dumps([{**entries[2], "videoID": "other"}]))
    (tmp_path / "val_list.txt").write_text("abc_000001_000010\n")
    found = make_manifest("vatex", tmp_path, tmp_path, tmp_path / "v.jsonl", "custom").clips
    assert counts([*found["train"], *found["val"]]) == {"train": (1, 10), "val": (1, 10)}

    steps = [{"id": 0, "segment": [3, 9], "sentence": "cut it"}, {"id": 1, "segment": [10, 12], "sentence": "fry it"}]
    database = {"x": {"subset": "training", "annotations": steps}, "y": {"subset": "validation", "annotations": steps}}
    (tmp_path / "youcookii_annotations_trainval.json").write_text(json.dumps({"database": database}))
    (tmp_path / "validation_youcook.csv").write_text("end,start,task,text,video_id\n9,3,226,cut it,y\n")
    found = make_manifest("youcook2", tmp_path, tmp_path, tmp_path / "y.jsonl", "custom").clips
    assert [c.id for c in found["train"]] == ["x_3_9", "x_10_12"] and found["test"][0].id == "y_3_9"


def test_a_pickle_of_captions_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "raw-captions.pkl").write_bytes(b"cos\nsystem\n(S'touch " + str(tmp_path / "ran").encode() + b"'\ntR.")
    (tmp_path / "test_list.txt").write_text("a\n")
    with pytest.raises(DataError, match="pickles are not read"):
        make_manifest("msvd", tmp_path, tmp_path, tmp_path / "m.jsonl", "custom")
    assert not (tmp_path / "ran").exists()


def test_tables_lists_and_folders_of_ones_own(tmp_path: Path) -> None:
    out = tmp_path / "m.jsonl"
    (tmp_path / "a.mp4").touch()
    (tmp_path / "t.csv").write_text('video_id,sentence,split\na,"runs, fast",test\na,stops,test\nb,jumps,train\n')
    make_manifest("csv", tmp_path / "t.csv", tmp_path, out)
    first, second = read_manifest(out)
    assert first.captions == ("runs, fast", "stops") and first.path == tmp_path / "a.mp4" and second.split == "train"
    (tmp_path / "t.jsonl").write_text('{"video": "a.mp4", "captions": ["one", "two"], "start": 1, "end": 2}\n')
    make_manifest("jsonl", tmp_path / "t.jsonl", tmp_path, out)
    assert read_manifest(out)[0].captions == ("one", "two") and read_manifest(out)[0].end == 2
    (tmp_path / "a.txt").write_text("beside it\nand more\n")
    make_manifest("folder", tmp_path, tmp_path, out)
    assert [(c.id, c.captions) for c in read_manifest(out)] == [("a.mp4", ("beside it", "and more"))]
    (tmp_path / "cve").mkdir()
    (tmp_path / "cve" / "k.npy").touch()
    (tmp_path / "cve" / "k.txt").write_text("caption of k")
    make_manifest("clip_video_encode", tmp_path / "cve", tmp_path, out)
    assert [(c.id, c.captions) for c in read_manifest(out)] == [("k", ("caption of k",))]


@pytest.mark.parametrize(
    ("text", "labels"),
    [
        ("x.mp4 3\ny.mp4 4\n", ["3", "4"]),
        ("x.mp4 0 2 4\ny.mp4 1\n", ["0 2 4", "1"]),
        ("x 30 3\ny 31 4\n", ["3", "4"]),
        ("x 2 30 3\ny 2 31 4\n", ["3", "4"]),
        ("x.mp4\ny.mp4\n", [None, None]),
    ],
)
def test_dialects_of_label_lists(tmp_path: Path, text: str, labels: list[str | None]) -> None:
    (tmp_path / "l.txt").write_text(text)
    make_manifest("labels", tmp_path / "l.txt", tmp_path, tmp_path / "m.jsonl")
    assert [clip.label for clip in read_manifest(tmp_path / "m.jsonl")] == labels


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("msrvt", ".", "."), "no such data set: 'msrvt'; did you mean 'msrvtt'"),
        (("msrvtt", "nowhere", "."), "nowhere: there is no such file or folder"),
        (("msrvtt", ".", "nowhere"), "nowhere: there is no such file or folder"),
        (("msrvtt", ".", "."), "holds no split of msrvtt_1k_a; nothing is downloaded here.\ntrain: left out"),
        (("msrvtt", ".", ".", "msvd"), "Protocol msvd is one of msvd; msrvtt has: msrvtt_1k_a"),
        (("msrvtt", ".", ".", None, ["valid"]), "has no split 'valid'; it has: train, test"),
        (("csv", ".", "."), "must be the table itself"),
    ],
)
def test_mistakes_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    reader, annotations, videos, *rest = arguments
    with pytest.raises(DataError, match=message):
        make_manifest(reader, annotations, videos, tmp_path / "m.jsonl", *rest)  # type: ignore[arg-type]


def test_a_file_cut_off_in_a_line_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "highlight_val_release.jsonl").write_text('{"qid": 1, "query": "a", "vid": "x"}\n{"qid": 2, "que')
    with pytest.raises(DataError, match="highlight_val_release.jsonl, line 2: is not JSON"):
        make_manifest("qvhighlights", tmp_path, tmp_path, tmp_path / "m.jsonl")
    (tmp_path / "l.json").write_text('{"a": {"label": 1}}')
    with pytest.raises(DataError, match="the label of 'a' is dict, not text or a number"):
        make_manifest("labels", tmp_path / "l.json", tmp_path, tmp_path / "m.jsonl")


def test_captions_are_read_once(tmp_path: Path) -> None:
    (tmp_path / "MSRVTT_train.9k.csv").write_text("video_id\nvideo1\n")
    sentences = {"sentences": [{"video_id": "video1", "caption": "one"}]}
    for name in ("MSRVTT_data.json", "train_val_videodatainfo.json"):
        (tmp_path / name).write_text(json.dumps(sentences))
    made = make_manifest("msrvtt", tmp_path, tmp_path, tmp_path / "m.jsonl", "custom")
    assert made.clips["train"][0].captions == ("one",)


def test_hashes_know_order_and_words() -> None:
    clips = [Clip(id=i, path=i, captions=(c,)) for i, c in (("a", "x"), ("b", "y"))]
    assert content_hash(clips) != content_hash(clips[::-1]) and len(content_hash(clips)) == 16
    CUSTOM.check("anything", clips, "nowhere")
    label = CUSTOM.label("test", clips)
    assert (label["name"], label["content"]) == ("custom", content_hash(clips))
