"""Rankings, qrels and queries that are damaged or from elsewhere; scores that are not finite; ties."""

from __future__ import annotations

import codecs
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from videoclip.backbone.openclip import OpenClip
from videoclip.cli import main
from videoclip.data.manifest import Clip, write_manifest
from videoclip.errors import DataError
from videoclip.metrics import check_relevance, retrieval_metrics
from videoclip.metrics.classes import Recognition
from videoclip.metrics.ranks import Scores
from videoclip.model import create_model
from videoclip.retrieval.hubness import dual_softmax, qb_norm, sinkhorn
from videoclip.retrieval.rerank import rerank
from videoclip.retrieval.runs import read_qrels, read_queries, read_run, run_metrics, write_run
from videoclip.store import FeatureStore
from videoclip.store.recipe import Recipe, create_description
from videoclip.store.shards import ShardWriter

FORMS = {
    "run": (read_run, "q Q0 a 1 0.5 t\n"),
    "qrels": (read_qrels, "q 0 a 1\n"),
    "queries": (read_queries, "q\ta text\n"),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"q\xe9 Q0 a 1 0.5 t\n", "line 1 is not UTF-8 text .byte 0xe9."),
        (codecs.BOM_UTF16_LE + "q\ta".encode("utf-16-le"), "line 1 is not UTF-8 text"),
        (None, "no such file"),
    ],
)
def test_what_cannot_be_read_is_a_sentence(tmp_path: Path, form: str, content: bytes | None, message: str) -> None:
    if content is not None:
        (tmp_path / "f").write_bytes(content)
    with pytest.raises(DataError, match=f"f: .*{message}"):
        FORMS[form][0](tmp_path / "f")


@pytest.mark.parametrize("form", FORMS)
def test_folders_are_refused(tmp_path: Path, form: str) -> None:
    with pytest.raises(DataError, match="is a folder, not a text file"):
        FORMS[form][0](tmp_path)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("before", [b"", codecs.BOM_UTF8])
@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
def test_byte_order_marks_and_line_ends(tmp_path: Path, form: str, before: bytes, end: bytes) -> None:
    read, line = FORMS[form]
    (tmp_path / "f").write_bytes(before + line.encode().replace(b"\n", end))
    assert list(read(tmp_path / "f")) == ["q"]


@pytest.mark.parametrize(
    "line", ["q Q0 a 1 nan t", "q Q0 a 1 inf t", "q Q0 a 1 -Infinity t", "q Q0 a 1", "q Q0 a 1 0.5"]
)
def test_scores_and_columns_of_runs(tmp_path: Path, line: str) -> None:
    (tmp_path / "r").write_text(f"q Q0 b 1 0.7 t\n{line}\n")
    with pytest.raises(DataError, match="r, line 2: expected `query Q0 video rank score tag`, with finite numbers"):
        read_run(tmp_path / "r")


def test_relevance_of_qrels_is_finite(tmp_path: Path) -> None:
    (tmp_path / "q").write_text("q 0 a nan\n")
    with pytest.raises(DataError, match="q, line 1: expected `query 0 video relevance`"):
        read_qrels(tmp_path / "q")


def test_a_query_has_one_text(tmp_path: Path) -> None:
    (tmp_path / "q.tsv").write_text("q\tone\nq\ttwo\n")
    with pytest.raises(DataError, match="q.tsv, line 2: query 'q' has another text already"):
        read_queries(tmp_path / "q.tsv")


def test_captions_keep_unusual_line_separators(tmp_path: Path) -> None:
    (tmp_path / "q.tsv").write_text("q\tone\u2028two\x85three\n", encoding="utf-8")
    assert read_queries(tmp_path / "q.tsv") == {"q": "one\u2028two\x85three"}


@pytest.mark.parametrize("score", [math.nan, math.inf, -math.inf])
def test_scores_that_are_not_finite_are_not_written(tmp_path: Path, score: float) -> None:
    (tmp_path / "r").write_text("old\n")
    with pytest.raises(DataError, match="the score of video 'b' for query 'q' is"):
        write_run({"q": [("a", 1.0), ("b", score)]}, tmp_path / "r")
    assert (tmp_path / "r").read_text() == "old\n"


@pytest.mark.parametrize(
    ("entries", "tied"),
    [
        ([("a", 0.9), ("b", 0.5)], 0),
        ([("b", 0.5), ("a", 0.5)], 1),
        ([("a", 0.5), ("c", 0.5), ("b", 0.4)], 0),
        ([("b", 0.9), ("d", 0.9), ("a", 0.5)], 0),
        ([("b", 0.900000001), ("a", 0.9)], 1),
        ([], 0),
    ],
)
def test_queries_whose_metrics_depend_on_the_tie_rule(entries: list[tuple[str, float]], tied: int) -> None:
    assert run_metrics({"q": entries}, {"q": {"a", "c"}, "none": set()})["tied"] == tied


def test_ties_keep_the_order_of_the_file_and_not_that_of_ids() -> None:
    """trec_eval takes 'b' first, and its R@1 is 0."""
    assert run_metrics({"q": [("a", 0.5), ("b", 0.5)]}, {"q": {"a"}})["R@1"] == 100


@pytest.mark.parametrize("value", [0.0, -1.0, math.nan, math.inf, 1e-320])
def test_temperatures_are_positive_and_finite(value: float) -> None:
    scores = Scores.of(torch.rand(3, 3), torch.arange(3))
    for correct in (dual_softmax, sinkhorn):
        with pytest.raises(DataError, match="temperature must be a positive finite number"):
            correct(scores, value)
    with pytest.raises(DataError, match="beta must be a positive finite number"):
        qb_norm(scores, scores, beta=value)


@pytest.mark.parametrize("value", ["0", "-1", "inf", "nan", "1e999", "warm"])
def test_the_command_takes_positive_temperatures_only(value: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["evaluate", "run", "--manifest", "m.jsonl", f"--temperature={value}"])
    assert "--temperature" in capsys.readouterr().err


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_metrics_refuse_scores_that_are_not_finite(value: float) -> None:
    matrix = np.eye(3, dtype=np.float32)
    matrix[1, 2] = value
    with pytest.raises(DataError, match="The score of text 1 and video 2 is"):
        retrieval_metrics(matrix, [0, 1, 2])
    with pytest.raises(DataError, match="A prediction for clip 1 is NaN or infinite"):
        Recognition(torch.from_numpy(matrix), torch.arange(3))


@pytest.mark.parametrize(
    ("relevance", "message"),
    [
        (np.full((2, 3), np.nan), "text 0 and video 0 have nan"),
        (np.array([[1, 0, 0], [0, np.inf, 0]]), "text 1 and video 1 have inf"),
        (np.array([[1, 0, 0], [0, 0, -1]]), "text 1 and video 2 have -1"),
        (np.ones((3, 2)), r"\(texts, videos\) = \(2, 3\); it is float64 \(3, 2\)"),
        (np.ones(3), "it is float64"),
        (np.full((2, 3), "a"), "it is <U1"),
        (np.ones((2, 3), complex), "it is complex128"),
        (np.zeros((2, 3)), "0 everywhere"),
    ],
)
def test_relevance_that_is_refused(relevance: np.ndarray, message: str) -> None:
    with pytest.raises(DataError, match=message):
        check_relevance(relevance, (2, 3))


def test_reranking_refuses_what_is_not_finite(shapes_store: FeatureStore, tiny: OpenClip) -> None:
    videos = shapes_store.ids[:3]
    run = {"q": [(videos[0], math.nan), (videos[1], 1.0), (videos[2], 0.5)]}
    with pytest.raises(DataError, match="Query 'q', video .*: the initial score is nan"):
        rerank(run, {"q": "a ring"}, shapes_store, tiny)
    with pytest.raises(DataError, match="weight must lie between 0 and 1"):
        rerank(run, {"q": "a ring"}, shapes_store, tiny, weight=math.nan)
    with pytest.raises(DataError, match="has no query"):
        rerank({}, {}, shapes_store, tiny)


def test_the_command_prints_ties_and_their_rule(
    tmp_path: Path, shapes_store: FeatureStore, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = shapes_store.ids[:2]
    (tmp_path / "run").write_text(f"q Q0 {first} 1 0.5 t\nq Q0 {second} 2 0.5 t\n")
    (tmp_path / "qrels").write_text(f"q 0 {second} 1\n")
    (tmp_path / "queries").write_text("q\ta red ring\n")
    options = {"run": "run", "qrels": "qrels", "queries": "queries", "out": "new/run"}
    arguments = [part for name, file in options.items() for part in (f"--{name}", str(tmp_path / file))]
    assert main(["rerank", *arguments, "--store", str(shapes_store.folder)]) == 0
    out = capsys.readouterr().out
    assert "tied queries  before 1  after 0 (equal scores keep the order of their ranks in the run; trec_eval" in out
    assert len(read_run(tmp_path / "new/run")["q"]) == 2


def random_store(folder: Path, tiny: OpenClip) -> list[str]:
    """Write a store of random features, a manifest and a model; return the clips' ids, which contain white space."""
    ids = [f"my clip\u2028{number}%20.mp4" for number in range(5)]
    recipe = Recipe(tiny.fingerprint, {}, 4, None, "exact", "auto", "fp32", "float16", {"frames": [tiny.width]})
    create_description(folder / "store", recipe, tiny.spec)
    rng = np.random.default_rng(0)
    with ShardWriter(folder / "store", "clips", recipe.tensors, "float16") as writer:
        for name in ids:
            rows = rng.standard_normal((2, tiny.width)).astype(np.float16)
            writer.add(name, {"frames": rows}, seconds=[0.0, 1.0], status="ok", decoder="none")
    captions = ("a red circle", "a ring")
    write_manifest([Clip(id=i, path=i, captions=captions, split="test") for i in ids], folder / "manifest.jsonl")
    create_model("tiny", similarity="mean", text_tuning="full", frames=4).save(folder / "model")
    return ids


def test_an_evaluation_of_ids_with_white_space_is_written_whole(
    tmp_path: Path, tiny: OpenClip, capsys: pytest.CaptureFixture[str]
) -> None:
    ids = random_store(tmp_path, tiny)
    np.save(tmp_path / "bad.npy", np.ones((2, 2)))
    command = ["evaluate", str(tmp_path / "model"), "--manifest", str(tmp_path / "manifest.jsonl")]
    command += ["--store", str(tmp_path / "store"), "--out", str(tmp_path / "e" / "deep")]
    assert main([*command, "--relevance", str(tmp_path / "bad.npy")]) == 1
    assert "bad.npy: Relevance must be an array of numbers (texts, videos) = (10, 5)" in capsys.readouterr().err
    assert main([*command, "--bank", "test", "--transductive", "nnn"]) == 1  # fails after the scores were computed
    assert "5 clips of the bank are among the tested ones" in capsys.readouterr().err
    assert {path.name for path in (tmp_path / "e/deep").iterdir()} == {"test.json", "test.ranks.json"}

    assert main(command) == 0
    run, qrels = read_run(tmp_path / "e/deep/test.run"), read_qrels(tmp_path / "e/deep/test.qrels")
    assert {video for entries in run.values() for video, _ in entries} == set(ids)
    assert {video for videos in qrels.values() for video in videos} == set(ids)
    assert run.keys() == qrels.keys() == read_queries(tmp_path / "e/deep/test.queries.tsv").keys()
