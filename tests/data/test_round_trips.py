"""What is written is read back, whatever the texts: manifests, rankings, qrels, queries, class lists."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from videoclip.data.classes import load_classes
from videoclip.data.manifest import Clip, read_manifest, write_manifest
from videoclip.data.readers.csv import read as read_csv
from videoclip.retrieval.runs import (
    escape_id,
    read_qrels,
    read_queries,
    read_run,
    unescape_id,
    write_qrels,
    write_queries,
    write_run,
)

often = settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
HOSTILE = [
    "\u2028",
    "\x85",
    "\t",
    "\n",
    "\r",
    '"',
    "%",
    "%20",
    "\x00",
    "\x1b[31m",
    "\ufeff",
    "\\",
    ",",
    "$",
    "[b]",
    " ",
]
pieces = st.one_of(st.characters(), st.sampled_from([*HOSTILE, "\udcff", "\ud800"]))
texts = st.lists(pieces, max_size=12).map("".join)
names = st.lists(pieces, min_size=1, max_size=12).map("".join)
scores = st.floats(allow_nan=False, allow_infinity=False)


def escaped(text: str) -> str:
    """What a clip makes of a text."""
    return text.encode("utf-8", "backslashreplace").decode()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    yield tmp_path_factory.mktemp("trips")


file_names = st.binary(min_size=1, max_size=12).filter(
    lambda n: b"/" not in n and b"\0" not in n and n not in (b".", b"..")
)


@often
@given(st.dictionaries(names, st.tuples(file_names, st.lists(texts, max_size=3), texts, st.none() | texts), max_size=4))
def test_manifests(folder: Path, rows: dict[str, tuple[bytes, list[str], str, str | None]]) -> None:
    clips = {}
    for name, (file, captions, split, label) in rows.items():
        path = folder / os.fsdecode(file)
        clip = Clip(id=name, path=path, captions=tuple(captions), split=split, label=label, start=0.1, end=1e9)
        assert os.fsencode(clip.path) == os.fsencode(folder) + b"/" + file
        clips[clip.id] = clip
    write_manifest(clips.values(), folder / "m.jsonl")
    (folder / "m.jsonl").read_bytes().decode()
    assert read_manifest(folder / "m.jsonl") == list(clips.values())


@often
@given(st.dictionaries(names, st.dictionaries(names, scores, min_size=1, max_size=4), max_size=3))
@example({"%20": {" ": 1.0, "%": 0.5, "\u3000": 0.5}})
def test_rankings(folder: Path, run: dict[str, dict[str, float]]) -> None:
    ordered = {query: sorted(videos.items(), key=lambda entry: -entry[1]) for query, videos in run.items()}
    write_run(ordered, folder / "r", tag="my tag")
    assert read_run(folder / "r") == ordered


@often
@given(st.dictionaries(names, st.sets(names, min_size=1, max_size=4), max_size=3))
def test_qrels(folder: Path, qrels: dict[str, set[str]]) -> None:
    write_qrels(qrels, folder / "q")
    assert read_qrels(folder / "q") == qrels


@often
@given(st.dictionaries(names, texts, max_size=4))
def test_queries(folder: Path, queries: dict[str, str]) -> None:
    """Ids come back as they are, texts with their white space as single spaces."""
    write_queries(queries, folder / "q.tsv")
    assert read_queries(folder / "q.tsv") == {q: " ".join(escaped(text).split()) for q, text in queries.items()}


@given(names)
def test_escapes_have_no_white_space_and_are_undone(name: str) -> None:
    assert len(escape_id(name).split()) == 1
    assert unescape_id(escape_id(name)) == name


@pytest.mark.parametrize("name", ["100%", "%", "%zz", "50%_off", "a%2fb", "%41", "%E4", "%C3%A9", "x%2", "v/a-b.mp4"])
def test_ids_of_other_programs_stay(name: str) -> None:
    assert unescape_id(name) == name


def as_lines(path: Path, labels: list[str]) -> None:
    path.write_text("".join(f"{label}\n" for label in labels), encoding="utf-8", newline="")


def as_table(path: Path, labels: list[str]) -> None:
    with path.open("w", newline="", encoding="utf-8-sig") as file:
        csv.writer(file).writerows([["id", "name"], *enumerate(labels)])


def as_json(path: Path, labels: list[str]) -> None:
    path.write_text(json.dumps({label: number for number, label in enumerate(labels)}))


class_names = names.map(escaped).map(str.strip).filter(bool)
unnumbered = class_names.filter(
    lambda label: not label[0].isdigit() and label[0] not in "#\ufeff" and not set(label) & set("\t\n\r")
)


@often
@given(st.lists(unnumbered, min_size=1, max_size=5, unique=True))
def test_class_lists_of_lines(folder: Path, labels: list[str]) -> None:
    as_lines(folder / "c.txt", labels)
    assert list(load_classes(folder / "c.txt").labels) == labels


@often
@given(
    st.lists(class_names, min_size=1, max_size=5, unique=True), st.sampled_from([("csv", as_table), ("json", as_json)])
)
def test_class_lists_of_tables_and_objects(folder: Path, labels: list[str], form: tuple[str, object]) -> None:
    suffix, write = form
    write(folder / f"c.{suffix}", labels)  # type: ignore[operator]
    assert list(load_classes(folder / f"c.{suffix}").labels) == labels


@often
@given(st.lists(texts.map(escaped), min_size=1, max_size=4))
def test_captions_of_tables_reach_the_manifest(folder: Path, captions: list[str]) -> None:
    with (folder / "t.csv").open("w", newline="", encoding="utf-8-sig") as file:
        csv.writer(file).writerows([["video", "caption"], *(["a.mp4", caption] for caption in captions)])
    write_manifest(read_csv(folder / "t.csv", {}), folder / "m.jsonl")
    assert read_manifest(folder / "m.jsonl")[0].captions == tuple(caption for caption in captions if caption)
