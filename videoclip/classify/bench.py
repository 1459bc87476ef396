"""Many classifiers on equal terms: the same clips, shots and seeds, one table and one plot."""

from __future__ import annotations

import contextlib
import hashlib
import json
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import TypeAdapter
from rich.progress import track

from videoclip import registry
from videoclip.classifier import Classifier, ClassTexts, Clips, Need
from videoclip.classify.fit import Read, Task, fit_classifier, lesson_for, needs_of, probabilities
from videoclip.classify.reader import Reader
from videoclip.classify.report import markdown, plot
from videoclip.classify.samples import Fold, Shots, draw
from videoclip.config import Component
from videoclip.data.classes import ClassList
from videoclip.data.manifest import Clip
from videoclip.data.protocol import id_hash
from videoclip.errors import DataError, VideoclipError, writing
from videoclip.files import make_folder, read_text, reading, replace_text, to_json
from videoclip.metrics import bootstrap_interval, verdict
from videoclip.metrics.classes import harmonic_mean

FITS = "fits.jsonl"


@dataclass(frozen=True)
class Novel:
    """Classes that nobody learns, and their test clips."""

    classes: ClassList
    texts: ClassTexts
    clips: list[Clip]


@dataclass
class Fit:
    """One classifier, fitted once.

    Attributes:
        key: of method, shots, seed, fold and the whole task.
        predicted: test clip -> label; ``novel`` likewise of novel classes, None where the method knows none.
        seconds: of fitting and predicting.
        validation: how many clips it was chosen on, where they come from, and a hash of their ids.
        search: what was chosen.
    """

    key: str
    method: str
    shots: int
    seed: int
    predicted: dict[str, str]
    novel: dict[str, str] | None
    seconds: float
    validation: dict[str, Any]
    search: dict[str, Any] | None


def bench(
    methods: Mapping[str, Component],
    task: Task,
    reader: Reader,
    folds: Sequence[Fold],
    shots: Sequence[int],
    seeds: Sequence[int],
    out: Path,
    novel: Novel | None = None,
) -> dict[str, Any]:
    """Fit every method with every number of shots and every seed, on every fold; what is done already is not again.

    Methods that read no labelled clip are fitted once a seed and fold, and count for every number of shots.

    Args:
        methods: by the name that the table shows.
        task: classes and texts.
        reader: of the store; every clip is read once.
        folds: each with its own test clips, which classifiers get without labels.
        out: gets ``fits.jsonl``, a line for each fit as it ends.
        novel: also test these classes.

    Returns:
        Rows of method and shots, ready for ``bench.json``; and of each method that cannot run, why.
    """
    if len({json.dumps(method.model_dump(), sort_keys=True) for method in methods.values()}) < len(methods):
        raise DataError("A method is named twice, in other words; name it once.")
    if novel is not None and (known := set(novel.classes.labels) & set(task.classes.labels)):
        raise DataError(f"{len(known)} novel classes are learned, too, such as {min(known)!r}.")
    if novel is not None and len(folds) > 1:
        raise DataError("Base to novel is tested on splits: leave no group out.")
    read, features = _reading(reader, task, folds, novel, {need for m in methods.values() for need in needs_of(m)})
    make_folder(out)
    done = {fit.key: fit for fit in _read_fits(out / FITS)}
    fits, left_out = list[Fit](), dict[str, str]()
    plan = list(_plan(methods, shots, seeds, folds))
    for name, count, seed, fold in track(plan, "fitting", transient=True):
        key = _key(methods[name], task, features, count, seed, fold, novel)
        if key not in done and name not in left_out:
            try:
                done[key] = _fit(key, name, methods[name], task, read, fold, count, seed, novel)
            except VideoclipError as error:
                left_out[name] = str(error)
                continue
            with writing(out), (out / FITS).open("a") as file:
                file.write(json.dumps(asdict(done[key])) + "\n")
        if key in done:
            fits.append(replace(done[key], method=name))  # an earlier run may have written it otherwise
    tested = [clip for fold in folds for clip in fold.test]
    truth = {clip.id: str(clip.label) for clip in [*tested, *(novel.clips if novel else ())]}
    names = [name for name in methods if name not in left_out]
    if not names:
        raise DataError("No method could run: " + "; ".join(f"{name}: {why}" for name, why in left_out.items()))
    more = {"class_list": task.classes.fingerprint, "sentences": task.sentences.label(), "folds": len(folds)}
    more |= {"store": reader.store.fingerprint, "frames": reader.model.config.frames, "left_out": left_out}
    return _results({name: methods[name] for name in names}, shots, seeds, fits, truth) | more


def write_bench(results: Mapping[str, Any], out: Path) -> str:
    """Leave ``bench.json``, ``bench.md`` and ``bench.png`` in a folder; what is worth printing."""
    replace_text(out / "bench.json", to_json(results, indent=2) + "\n")
    replace_text(out / "bench.md", markdown(results))
    lines = [f"left out: {name}: {reason}" for name, reason in results["left_out"].items()] + [markdown(results)]
    try:
        plot(results, out / "bench.png")
        lines.append(f"{out}: bench.json, bench.md, bench.png")
    except VideoclipError as error:  # a table is worth having without its picture
        lines.append(f"{out}: bench.json, bench.md; {error}")
    return "\n".join(lines)


def _plan(
    methods: Mapping[str, Component], shots: Sequence[int], seeds: Sequence[int], folds: Sequence[Fold]
) -> Iterable[tuple[str, int, int, Fold]]:
    for name, method in methods.items():
        for count in shots if "support" in needs_of(method) else (0,):
            yield from ((name, count, seed, fold) for seed in seeds for fold in folds)


def _fit(
    key: str,
    name: str,
    method: Component,
    task: Task,
    read: Read,
    fold: Fold,
    count: int,
    seed: int,
    novel: Novel | None,
) -> Fit:
    began = time.perf_counter()
    drawn = draw(fold.train, task.classes, count, seed, fold.validation) if count else Shots([], [], "none")
    classifier = fit_classifier(method, lesson_for(method, task, read, drawn, fold.train, seed))
    predicted, of_novel = _predicted(classifier, read, fold.test, task.classes), None
    if novel is not None:
        with contextlib.suppress(DataError):  # a method that knows only the classes it was fitted on
            of_novel = _predicted(classifier.transferred(novel.texts), read, novel.clips, novel.classes)
    search = None if classifier.found is None else classifier.found.summary()
    seconds, held = round(time.perf_counter() - began, 3), drawn.validation
    validation = {"clips": len(held), "from": drawn.validation_from, "ids": id_hash(held)}
    return Fit(key, name, count, seed, predicted, of_novel, seconds, validation, search)


def _predicted(classifier: Classifier, read: Read, clips: Sequence[Clip], classes: ClassList) -> dict[str, str]:
    """The most probable class of clips that come without labels."""
    numbers = probabilities(classifier, [read(clips, False)]).argmax(1).tolist()
    return {clip.id: classes.labels[number] for clip, number in zip(clips, numbers, strict=True)}


def _reading(
    reader: Reader, task: Task, folds: Sequence[Fold], novel: Novel | None, needs: Collection[Need]
) -> tuple[Read, str]:
    """All clips in memory: how to pick some, and a hash of all.

    Labels of clips that are only tested are not among what is held.
    """
    known = {clip.id: clip for fold in folds for part in (fold.train, fold.validation, fold.test) for clip in part}
    learned = {clip.id for fold in folds for part in (fold.train, fold.validation) for clip in part}
    tested = known.keys() - learned
    new = {} if novel is None else {clip.id: clip for clip in novel.clips if clip.id not in known}
    every = reader.clips([*known.values(), *new.values()], None, needs)
    unlabelled = -torch.ones(len(new), dtype=torch.long)
    numbers = [
        -1 if clip.id in tested else task.classes.number(str(clip.label), f"clip {clip.id!r}")
        for clip in known.values()
    ]
    pool = replace(every, labels=torch.cat([torch.tensor(numbers, dtype=torch.long), unlabelled]))
    places = {clip_id: place for place, clip_id in enumerate([*known, *new])}

    def read(clips: Sequence[Clip], with_labels: bool) -> Clips:
        found = pool[torch.tensor([places[clip.id] for clip in clips])]
        return found if with_labels else found.without_labels()

    held = [pool.pooled, pool.views, pool.frames, pool.mask, pool.crops, task.texts.weights, task.bank]
    held += [torch.tensor(task.scale), None if novel is None else novel.texts.weights]
    content = b"".join(b"-" if tensor is None else tensor.numpy().tobytes() for tensor in held)
    return read, hashlib.sha256(content).hexdigest()


def _results(
    methods: Mapping[str, Component],
    shots: Sequence[int],
    seeds: Sequence[int],
    fits: Sequence[Fit],
    truth: Mapping[str, str],
) -> dict[str, Any]:
    """Here, for the first time, predictions meet the test clips' labels."""
    rows = []
    by_name: dict[tuple[str, int], np.ndarray] = {}
    for name in methods:
        for count in shots:
            own = [fit for fit in fits if fit.method == name and fit.shots in (count, 0)]
            each = np.array([_of_seed(own, seed, "predicted", truth) for seed in seeds])
            by_name[name, count] = hits = each.mean(0)
            row: dict[str, Any] = {
                "method": name,
                "shots": count,
                "accuracy": float(hits.mean()),
                "interval": list(bootstrap_interval(hits)),
                "seeds": [float(one.mean()) for one in each],
                "deviation": float(each.mean(1).std(ddof=1)) if len(seeds) > 1 else None,
                "clips": len(hits),
                "labelled": "support" in needs_of(methods[name]),
                "seconds": float(np.mean([fit.seconds for fit in own])),
            }
            rows.append(row | _novel_columns(own, seeds, row["accuracy"], truth))
    return {
        "shots": list(shots),
        "seeds": list(seeds),
        "rows": rows,
        "differences": _differences(list(methods), shots, by_name),
    }


def _novel_columns(fits: Sequence[Fit], seeds: Sequence[int], base: float, truth: Mapping[str, str]) -> dict[str, Any]:
    if any(fit.novel is None for fit in fits):
        return {}
    novel = float(np.mean([_of_seed(fits, seed, "novel", truth) for seed in seeds]))
    return {"novel": novel, "harmonic_mean": harmonic_mean(base, novel)}


def _of_seed(fits: Sequence[Fit], seed: int, what: str, truth: Mapping[str, str]) -> np.ndarray:
    """100 where a prediction is right, else 0, of all folds' test clips in order of their ids."""
    joined = {key: label for fit in fits if fit.seed == seed for key, label in getattr(fit, what).items()}
    return np.array([100.0 * (joined[key] == truth[key]) for key in sorted(joined)])


def _differences(
    names: Sequence[str], shots: Sequence[int], hits: Mapping[tuple[str, int], np.ndarray]
) -> list[dict[str, Any]]:
    """Of every method from the first one, paired over clips."""
    found = []
    for name in names[1:]:
        for count in shots:
            paired = hits[name, count] - hits[names[0], count]
            interval = bootstrap_interval(paired)
            values = {"difference": float(paired.mean()), "interval": list(interval), "verdict": verdict(interval)}
            found.append({"method": name, "against": names[0], "shots": count, **values})
    return found


def _key(method: Component, task: Task, features: str, shots: int, seed: int, fold: Fold, novel: Novel | None) -> str:
    content = [
        method.model_dump(),
        task.classes.fingerprint,
        task.sentences.fingerprint,
        shots,
        seed,
        [[clip.id, clip.label] for part in (fold.train, fold.validation) for clip in part],
        [clip.id for clip in fold.test],
        [clip.id for clip in novel.clips] if novel else None,
        features,
    ]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def _read_fits(path: Path) -> list[Fit]:
    """Read whole lines only: a kill may have left part of the last one, which is cut off."""
    if not path.exists():
        return []
    *lines, rest = read_text(path).split("\n")
    if rest:
        replace_text(path, "".join(f"{line}\n" for line in lines))
    kind = TypeAdapter(Fit)
    with reading(path, "a list of fits", remedy="Delete it, or choose another --out."):
        return [kind.validate_json(line) for line in lines]


def all_methods() -> list[str]:
    """Every classifier by name, zero-shot first."""
    names = list(registry.components("classifier"))
    return sorted(names, key=lambda name: (name != "zero_shot", name))
