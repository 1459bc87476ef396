"""The demo: everything from video files on disk to ranked results, offline, with what the package ships."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from videoclip.backbone import create_backbone
from videoclip.config import ModelConfig, RunConfig, load_config
from videoclip.data.manifest import Clip, of_split, read_manifest
from videoclip.errors import DataError, printable
from videoclip.files import make_folder, replace_text
from videoclip.metrics import with_interval
from videoclip.model import build_model, load_model
from videoclip.retrieval.report import Example, write_report
from videoclip.retrieval.rerank import rerank
from videoclip.retrieval.runs import (
    read_qrels,
    read_queries,
    read_run,
    run_metrics,
    write_evaluation,
    write_run,
)
from videoclip.store import FeatureStore
from videoclip.store.extract import Extras, cache_features
from videoclip.synthetic.moving_shapes import FRAMES, MANIFESTS, seed_of, write_moving_shapes
from videoclip.training.evaluate import Evaluation, evaluate
from videoclip.training.loop import train
from videoclip.training.processes import main_first
from videoclip.video.clip import FrameChoice

MODELS = ("mean", "query_scoring", "transformer", "lstm", "difference")
SPLITS = {"twins": "test", "novel": "novel"}


def prepare_data(config: RunConfig, seed: int = 0) -> None:
    """Make manifest and store that ``data.synthetic`` asks for; what is there already is left alone.

    In a launch of several processes all call it.

    Args:
        seed: of the videos. It is not the run's: several seeds of a run share their data.

    Raises:
        DataError: the manifest is not one that would be made, or its folder contains something else.
    """
    if config.data.synthetic is None or config.data.store is None:
        return
    manifest = config.data.manifest
    if manifest.name not in MANIFESTS:
        raise DataError(
            f"data.synthetic makes {' and '.join(MANIFESTS)}, not {manifest}: correct data.manifest, or set "
            "data.synthetic to null to train on your own data."
        )
    with main_first():
        if seed_of(manifest.parent) is None:
            write_moving_shapes(manifest.parent, seed)
    backbone = create_backbone(**config.model.backbone.model_dump())
    extras = Extras(pixels="uint8" if config.data.source == "videos" else None)
    cache_features(read_manifest(manifest), config.data.store, backbone, FrameChoice(frames=FRAMES), extras=extras)


def run_demo(out: Path, seed: int = 0) -> dict[str, Any]:
    """Write videos, cache, score zero-shot, train five models, re-rank; leave everything below ``out``.

    An interrupted demo goes on where it stopped.

    Returns:
        The content of ``results.json``.

    Raises:
        DataError: ``out`` holds a demo of another seed.
    """
    console = Console()
    began = time.monotonic()
    configs = {name: _config(name, out, seed) for name in MODELS}
    if (there := seed_of(out / "videos")) not in (None, seed):
        raise DataError(f"{out} holds a demo of seed {there}; choose another --out for seed {seed}.")
    prepare_data(configs["mean"], seed)
    store, clips = FeatureStore(out / "store"), read_manifest(out / "videos" / "manifest.jsonl")
    console.print(f"{len(store)} videos written and cached in {time.monotonic() - began:.0f} s")
    rows = [_zero_shot_row(store, clips)]
    for name, config in configs.items():
        console.print(f"training [bold]{name}[/bold]")
        report = train(config, out / "runs" / name, resume=(out / "runs" / name / "config.yaml").exists())
        assert report is not None  # this is the only process
        rows.append(_row(name, report["test"], report["parameters"], report["seconds"]))
    results = {"seed": seed, "rows": rows, "rerank": _rerank(out, store, clips)}
    results["seconds"] = round(time.monotonic() - began, 1)
    replace_text(out / "results.json", json.dumps(results, indent=2) + "\n")
    table = _table(results)
    console.print(table)
    _report(out, results, store, clips)
    best = max(rows, key=lambda row: row["twins"]["text_to_video/R@1"])["name"]
    query = of_split(clips, "test", out)[0].captions[0]
    show = [f"{results['seconds']:.0f} s in all. Look at {out / 'report.html'}; search with"]
    show += [f'  videoclip search {out / "store"} "{query}" --checkpoint {out / "runs" / best}']
    for line in show:  # a folder's name is not markup
        console.print(printable(line), markup=False, highlight=False, soft_wrap=True)
    return results


def _config(name: str, out: Path, seed: int) -> RunConfig:
    overrides = [
        f"data.manifest={out / 'videos' / 'manifest.jsonl'}",
        f"data.store={out / 'store'}",
        "data.synthetic=moving_shapes",  # other places turn the making off unless it is asked for
        f"train.seed={seed}",
    ]
    return load_config(f"demo/{name}", overrides)


def _zero_shot_row(store: FeatureStore, clips: Sequence[Clip]) -> dict[str, Any]:
    began = time.monotonic()
    model = build_model(ModelConfig(frames=FRAMES))
    tests = {split: evaluate(model, store, of_split(clips, split, store.folder)).summary() for split in SPLITS.values()}
    return _row("zero_shot", tests, 0, round(time.monotonic() - began, 1))


def _row(name: str, tests: dict[str, Any], parameters: int, seconds: float) -> dict[str, Any]:
    splits = {label: tests[split] for label, split in SPLITS.items()}
    return {"name": name, **splits, "parameters": parameters, "seconds": seconds}


def _rerank(out: Path, store: FeatureStore, clips: Sequence[Clip]) -> dict[str, dict[str, float]]:
    """Re-rank the trained mean model's run with the plain backbone's best frame, through run files as a user would."""
    folder = out / "rerank"
    make_folder(folder)
    write_evaluation(_evaluate_run(out, "mean", store, clips), folder, "mean")
    before, qrels = read_run(folder / "mean.run"), read_qrels(folder / "mean.qrels")
    after = rerank(before, read_queries(folder / "mean.queries.tsv"), store, create_backbone("tiny"))
    write_run(after, folder / "mean.reranked.run", "rerank")
    return {"before": run_metrics(before, qrels), "after": run_metrics(after, qrels)}


def _evaluate_run(out: Path, name: str, store: FeatureStore, clips: Sequence[Clip]) -> Evaluation:
    return evaluate(load_model(out / "runs" / name), store, of_split(clips, "test", out))


def _table(results: dict[str, Any]) -> Table:
    table = Table(title="Moving shapes, text to video, R@1 in % [95 % bootstrap interval over queries]")
    for column in ("model", "twins", "novel"):
        table.add_column(column)
    for column in ("trained parameters", "seconds"):
        table.add_column(column, justify="right")
    for row in results["rows"]:
        cells = [_cell(row[split]) for split in SPLITS]
        table.add_row(row["name"], *cells, f"{row['parameters']:,}", f"{row['seconds']:.0f}")
    before, after = (results["rerank"][when]["R@1"] for when in ("before", "after"))
    table.caption = f"Re-ranking mean's run with the untrained backbone's best frame: R@1 {before:.1f} -> {after:.1f}"
    return table


def _cell(result: dict[str, Any]) -> str:
    return with_interval(result["text_to_video/R@1"], result["interval"])


def _report(out: Path, results: dict[str, Any], store: FeatureStore, clips: Sequence[Clip]) -> None:
    model = load_model(out / "runs" / "query_scoring")
    found = evaluate(model, store, of_split(clips, "test", out))
    paths = {clip.id: Path(clip.path) for clip in clips}
    ranks, first = found.ranks.text, found.scores.top(1)[0][:, 0].tolist()
    order = (ranks > 1).nonzero()[:4, 0].tolist() + (ranks <= 1).nonzero()[:4, 0].tolist()
    examples = []
    for query in order:
        top = found.videos[first[query]]
        right = found.videos[int(found.scores.owner[query])]
        shown = [right] if top == right else [right, top]
        text = model.encode_text([found.texts[query]])
        weights = model.similarity.frame_weights(text, model.encode_store(store, shown)).detach()[0]
        videos = [(video, paths[video], w.tolist()) for video, w in zip(shown, weights, strict=True)]
        examples.append(Example(found.texts[query], float(ranks[query]), videos))
    write_report(out / "report.html", results, examples, list(SPLITS))
