"""Evaluation: the same numbers on one process and on two, whatever their share of texts and videos."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
import torch

from tests.helpers.two_processes import Gradients, OfTwo
from videoclip.backbone import create_backbone
from videoclip.backbone.openclip import OpenClip
from videoclip.cli import main
from videoclip.data.manifest import Clip, of_split, read_manifest, write_manifest
from videoclip.metrics import retrieval_metrics
from videoclip.model import create_model
from videoclip.retrieval.runs import read_run
from videoclip.store import FeatureStore
from videoclip.store.recipe import Recipe, create_description
from videoclip.store.shards import ShardWriter
from videoclip.training.evaluate import evaluate, judge

EVALUATE = Path(__file__).parents[2] / "tools" / "evaluate.py"
COLOURS, THINGS, MOVES = (
    ["red", "blue", "green", "white"],
    ["circle", "square", "star", "cross"],
    ["grows", "falls", "turns"],
)


def random_clips(folder: Path, count: int, tiny: OpenClip) -> None:
    """A store of random features of the tiny CLIP's width, two captions for every third clip, and their manifest."""
    rng, clips = np.random.default_rng(count), []
    recipe = Recipe(tiny.fingerprint, {}, 4, None, "exact", "auto", "fp32", "float16", {"frames": [tiny.width]})
    create_description(folder / "store", recipe, tiny.spec)
    with ShardWriter(folder / "store", "clips", recipe.tensors, "float16") as writer:
        for number in range(count):
            rows = rng.standard_normal((1 + number % 4, tiny.width), np.float32).astype(np.float16)
            seconds = [float(second) for second in range(len(rows))]
            writer.add(f"clip{number}", {"frames": rows}, seconds=seconds, status="ok", decoder="none")
            words = [f"a {rng.choice(COLOURS)} {rng.choice(THINGS)} {rng.choice(MOVES)} {number}" for _ in range(2)]
            clips.append(
                Clip(
                    id=f"clip{number}",
                    path=f"{number}.mp4",
                    captions=tuple(words[: 1 + (number % 3 == 0)]),
                    split="test",
                )
            )
    write_manifest(clips, folder / "manifest.jsonl")


def evaluated(tiny: OpenClip, folder: Path) -> dict[str, torch.Tensor]:
    """Evaluate a model whose text tower is its own on a few random clips."""
    random_clips(folder, 7, tiny)
    torch.manual_seed(0)
    model = create_model("tiny", temporal="transformer", similarity="query_scoring", text_tuning="full", frames=4)
    clips = read_manifest(folder / "manifest.jsonl")
    found = evaluate(model, FeatureStore(folder / "store"), clips)
    assert found.ranks.video is not None
    ranks = {"of texts": torch.as_tensor(found.ranks.text), "of videos": torch.as_tensor(found.ranks.video)}
    return {"scores": found.scores.whole(), **ranks}


def one_of_two(rank: int) -> dict[str, Gradients]:
    backbone = create_backbone("tiny")
    assert isinstance(backbone, OpenClip)
    with TemporaryDirectory() as folder:
        return {"evaluation": evaluated(backbone, Path(folder))}


@pytest.mark.slow
def test_each_of_two_processes_finds_what_one_finds(of_two: OfTwo, tiny: OpenClip, tmp_path: Path) -> None:
    expected = evaluated(tiny, tmp_path)
    for found in of_two[__name__]:
        torch.testing.assert_close(found["evaluation"], expected, atol=1e-6, rtol=0)


@pytest.mark.slow
@pytest.mark.parametrize(("count", "rule"), [(7, "all_captions"), (1000, "best_caption")])
def test_one_and_two_processes_write_the_same_bytes(count: int, rule: str, tiny: OpenClip, tmp_path: Path) -> None:
    random_clips(tmp_path, count, tiny)
    torch.manual_seed(0)
    create_model("tiny", temporal="transformer", similarity="query_scoring", text_tuning="full", frames=4).save(
        tmp_path / "model"
    )
    (tmp_path / "mine.yaml").write_text(f"name: mine\nvideo_to_text: {rule}\nsplits: {{test: {{videos: {count}}}}}\n")
    arguments = [
        str(tmp_path / "model"),
        "--manifest",
        str(tmp_path / "manifest.jsonl"),
        "--store",
        str(tmp_path / "store"),
    ]
    arguments += ["--protocol", str(tmp_path / "mine.yaml"), "--transductive", "dual_softmax", "sinkhorn"]
    assert main(["evaluate", *arguments, "--out", str(tmp_path / "one")]) == 0
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--standalone", str(EVALUATE)]
    command, environment = [*launch, *arguments, "--out", str(tmp_path / "two")], {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run(command, check=True, timeout=240, stdout=subprocess.DEVNULL, env=environment)
    names = sorted(path.name for path in (tmp_path / "one").iterdir())
    assert names == ["test.json", "test.qrels", "test.queries.tsv", "test.ranks.json", "test.run"]
    for name in set(names) - {"test.run"}:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes(), name
    one, two = (read_run(tmp_path / folder / "test.run") for folder in ("one", "two"))
    for query, entries in one.items():  # another number of threads may round a score's last digit otherwise
        assert dict(two[query]) == pytest.approx(dict(entries), abs=1e-6)
    found = json.loads((tmp_path / "one" / "test.json").read_text())
    assert found["videos"] == count and found["texts"] == count + -(-count // 3)
    assert found["protocol"]["video_to_text"] == rule
    assert found["transductive"]["dual_softmax"]["queries"] == found["texts"]


def test_evaluation_is_the_metrics_of_the_whole_matrix(shapes: Path, shapes_store: FeatureStore) -> None:
    model = create_model("tiny", temporal="lstm", similarity="query_scoring", text_tuning="full", frames=6)
    clips = of_split(read_manifest(shapes), "train", shapes)
    found = evaluate(model, shapes_store, clips)
    assert model.training
    matrix = found.scores.whole()
    assert found.metrics == retrieval_metrics(matrix, found.scores.owner)
    model.eval()
    direct = model.score(found.texts, shapes_store.features(found.videos, 6))
    torch.testing.assert_close(matrix, direct, atol=1e-5, rtol=1e-4)
    columns, values = found.scores.top(3)
    assert torch.equal(values, matrix.topk(3).values) and torch.equal(matrix.gather(1, columns), values)


def test_equal_captions_share_their_videos_in_a_line_of_its_own() -> None:
    clips = [Clip(id=str(n), path=str(n), captions=(c,)) for n, c in enumerate(("same", "same", "other"))]
    scores = torch.tensor([[0.1, 0.9, 0.2], [0.1, 0.9, 0.2], [0.5, 0.1, 0.4]])
    found = judge(scores, clips)
    assert found.metrics["text_to_video/R@1"] == pytest.approx(100 / 3)
    assert found.same_caption == {"texts": 2, "text_to_video/R@1": pytest.approx(200 / 3)}


def test_banks_and_single_queries(
    shapes: Path, shapes_store: FeatureStore, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    create_model("tiny", similarity="mean", frames=6).save(tmp_path / "m")
    arguments = ["evaluate", str(tmp_path / "m"), "--manifest", str(shapes), "--store", str(shapes_store.folder)]
    every = ["--transductive", "dual_softmax", "sinkhorn", "qb_norm", "nnn"]
    np.save(tmp_path / "relevance.npy", np.eye(12))
    assert main([*arguments, *every, "--bank", "train", "--relevance", str(tmp_path / "relevance.npy")]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (
        found["text_to_video/R@1"]
        <= found["graded"]["text_to_video/mAP"]
        <= found["graded"]["text_to_video/nDCG"]
        <= 100
    )
    assert {n: v["queries"] for n, v in found["transductive"].items()} == {
        "dual_softmax": 12,
        "sinkhorn": 12,
        "qb_norm": 72,
        "nnn": 72,
    }
    assert found["transductive"]["nnn"]["looked_at"] == "a bank of other sentences"
    assert (
        main([*arguments, "--relevance", str(shapes)]) == 1 and "cannot be read as an array" in capsys.readouterr().err
    )
    assert main([*arguments, *every]) == 1 and "name a split for it" in capsys.readouterr().err
    assert main([*arguments, *every, "--bank", "test"]) == 1
    assert "12 clips of the bank are among the tested ones" in capsys.readouterr().err
    clips = read_manifest(shapes)
    one = next(c for c in clips if c.split == "test").model_copy(update={"split": "one"})
    write_manifest([one], tmp_path / "one.jsonl")
    arguments[3] = str(tmp_path / "one.jsonl")
    assert main([*arguments, "--split", "one", "--transductive", "dual_softmax"]) == 1
    assert "with one query there is nothing to do" in capsys.readouterr().err
