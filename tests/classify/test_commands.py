"""From a store to a fitted head, its test, a prediction on a file, and a table: through the command line."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from videoclip.backbone.openclip import OpenClip
from videoclip.classify.bench import bench
from videoclip.classify.evaluate import apart, judge, predict_files, together, views_of, weigh
from videoclip.classify.fit import Task, fit_head, parse_method
from videoclip.classify.head import Head, load_head
from videoclip.classify.reader import Reader, View, interleaved, plain_model
from videoclip.classify.samples import Fold, Shots, clips_by_folder, draw, halves, leave_group_out, make_folds
from videoclip.cli import main
from videoclip.data.classes import classes_of, load_classes, sentences_about
from videoclip.data.manifest import Clip, read_manifest, write_manifest
from videoclip.errors import CheckpointError, ConfigError, DataError
from videoclip.features import VideoFeatures
from videoclip.metrics.classes import Recognition
from videoclip.model import create_model
from videoclip.registry import components
from videoclip.store import FeatureStore
from videoclip.store.extract import Extras, cache_features
from videoclip.synthetic.scenes import SHAPES
from videoclip.video.clip import FrameChoice


@pytest.fixture(scope="module")
def objects(shapes: Path) -> list[Clip]:
    """Clips of the shapes that several videos of every side show, labelled by them."""
    clips = read_manifest(shapes)
    named = [c.model_copy(update={"label": next(s for s in SHAPES if s in c.captions[0])}) for c in clips]
    common = {s for s in SHAPES if sum(c.label == s and c.split == "train" for c in named) >= 4}
    assert len(common) >= 3
    return [clip for clip in named if clip.label in common]


@pytest.fixture(scope="module")
def manifest(objects: list[Clip], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("objects") / "objects.jsonl"
    write_manifest(objects, path)
    return path


@pytest.fixture(scope="module")
def reader(shapes_store: FeatureStore) -> Reader:
    return Reader(shapes_store, plain_model(shapes_store))


def task_of(reader: Reader, clips: list[Clip], prompts: bool = False) -> Task:
    classes = classes_of(clips)
    return Task.of(reader.model, classes, sentences_about(classes, "a {}"), prompts, [c.captions[0] for c in clips])


def head_of(reader: Reader, objects: list[Clip], method: str = "gda", shots: int | None = 2) -> Head:
    train = [clip for clip in objects if clip.split == "train"]
    task = task_of(reader, train)
    return fit_head(parse_method(method), reader, task, draw(train, task.classes, shots, 0))


def cheaply() -> list[str]:
    """Every method, with as little training as it takes."""
    few = dict.fromkeys(("coop", "eco", "pre", "prograd", "temporal_encoder"), "epochs=2")
    few |= {"upl": "runs=1,epochs=2", "grip": "rounds=2,epochs=6", "cocoop": "epochs=1"}
    few |= dict.fromkeys(("ape", "tip_x"), "alpha_steps=5,beta_steps=20,gamma_steps=4")
    return [f"{name}:{few.get(name, '')}" for name in components("classifier")]


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    code = main([str(argument) for argument in arguments])
    out = capsys.readouterr()
    return code, out.out, out.err


def test_fit_test_and_predict(
    shapes_store: FeatureStore,
    objects: list[Clip],
    manifest: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    head = tmp_path / "head.safetensors"
    common = ("--manifest", manifest, "--templates", "a {}")
    fit = ("classify", "fit", shapes_store.folder, *common, "--split", "train", "--shots", 2, "--out", head)
    code, out, err = run(capsys, *fit, "--method", "tip_adapter:beta_steps=20", "--seed", 3)
    assert code == 0, err
    assert "validation:" in out and '"points": 20' in out and "backbone" in out and head.stat().st_size < 200_000
    with safe_open(head, "pt") as file:
        about = json.loads(file.metadata()["videoclip"])
    assert about["backbone"]["fingerprint"] == shapes_store.recipe.backbone and about["fitted_on"]["shots"] == 2
    assert about["fitted_on"]["validation"] and not {*about["fitted_on"]["support"]} & {
        *about["fitted_on"]["validation"]
    }
    test = ("classify", "eval", head, "--store", shapes_store.folder, *common, "--split", "test")
    code, out, err = run(capsys, "info", head)
    assert code == 0 and "method:" in out and '"name": "tip_adapter"' in out
    code, out, err = run(capsys, *test, "--clips", 2, "--out", tmp_path / "tested")
    assert code == 0, err
    found = json.loads(out[out.index("{") :])
    assert found == json.loads((tmp_path / "tested" / "recognition.json").read_text())
    assert {"top-1", "top-5", "mean_class", "calibration_error", "interval"} <= set(found) and found["views"] == 2
    lines = [json.loads(line) for line in (tmp_path / "tested" / "predictions.jsonl").read_text().splitlines()]
    assert sum(line["label"] == line["predicted"] for line in lines) * 100 / len(lines) == pytest.approx(found["top-1"])
    assert (tmp_path / "tested" / "confusion.png").read_bytes()[:4] == b"\x89PNG"
    files = [clip.path for clip in objects if clip.split == "test"][:2]
    code, out, err = run(capsys, "classify", "predict", *files, "--head", head, "-k", 2)
    assert code == 0, err
    shown = [line.split() for line in out.splitlines() if line.startswith("  ")]
    assert len(shown) == 4 and {label for _, label in shown} <= set(about["classes"]["labels"])
    assert float(shown[0][0]) >= float(shown[1][0])


def test_a_prediction_on_a_file_is_that_of_the_store(reader: Reader, objects: list[Clip]) -> None:
    for method in ("gda", "temporal_encoder:epochs=2"):
        head, clips = head_of(reader, objects, method), [clip for clip in objects if clip.split == "test"][:3]
        stored = judge(head, reader, clips).found.probabilities
        live = predict_files(head, [Path(clip.path) for clip in clips])
        torch.testing.assert_close(live, stored, atol=2e-2, rtol=0)  # the store holds half precision


def test_every_method_survives_its_file(reader: Reader, objects: list[Clip], tmp_path: Path) -> None:
    train, clips = [c for c in objects if c.split == "train"], [c for c in objects if c.split == "test"]
    task = task_of(reader, train, prompts=True)
    shots = draw(train, task.classes, 2, 0)
    for text in cheaply():
        method = parse_method(text)
        name = method.name
        head = fit_head(method, reader, task, shots, train)
        head.save(tmp_path / name)
        again = load_head(tmp_path / name)
        expected, found = (judge(h, reader, clips).found.probabilities for h in (head, again))
        torch.testing.assert_close(found, expected)
        assert again.classes == head.classes and again.method == method


def test_folders_of_the_store_are_classes(shapes_store: FeatureStore, reader: Reader) -> None:
    clips = clips_by_folder(shapes_store)
    assert {clip.label for clip in clips} == {"train", "val", "test", "novel"}
    head = fit_head(
        parse_method("linear_probe"), reader, task_of(reader, _captioned(clips)), draw(clips, classes_of(clips), 2, 0)
    )
    left = apart([head], clips)
    assert len(left) == len(clips) - len({*head.fitted_on["support"], *head.fitted_on["validation"]})


def _captioned(clips: list[Clip]) -> list[Clip]:
    return [clip.model_copy(update={"captions": (str(clip.label),)}) for clip in clips]


def test_wrong_backbones_and_class_lists_are_told(
    reader: Reader,
    objects: list[Clip],
    manifest: Path,
    shapes_store: FeatureStore,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    head = head_of(reader, objects)
    head.save(tmp_path / "head")
    film = next(clip.path for clip in objects)
    labels = list(head.classes.labels)
    for name, lines, message in (
        ("longer", [*labels, "moon"], f"has {len(labels) + 1} classes, not {len(labels)}"),
        ("turned", labels[::-1], "has the same classes in another order, from number 0 on"),
        ("other", [*labels[:-1], "moon"], "has other classes, such as 'moon'"),
    ):
        (tmp_path / f"{name}.txt").write_text("\n".join(lines))
        for command in (
            ("predict", film, "--head", tmp_path / "head"),
            ("eval", tmp_path / "head", "--store", shapes_store.folder, "--manifest", manifest),
        ):
            code, _, err = run(capsys, "classify", *command, "--classes", tmp_path / f"{name}.txt")
            assert code == 1 and message in err and err.count("\n") == 1, err
    unknown, moved = head_of(reader, objects), head_of(reader, objects)
    unknown.backbone = {**head.backbone, "name": "gone"}
    unknown.save(tmp_path / "unknown")
    moved.backbone = {**head.backbone, "fingerprint": "0123456789abcdef"}
    moved.save(tmp_path / "moved")
    for name, message in (("unknown", "which cannot be loaded here"), ("moved", "fitted on features of backbone 0123")):
        code, _, err = run(capsys, "classify", "predict", film, "--head", tmp_path / name)
        assert code == 1 and message in err and "Traceback" not in err
    code, _, err = run(capsys, "classify", "eval", tmp_path / "moved", "--store", shapes_store.folder)
    assert (
        code == 1 and "fitted on features of backbone 0123456789abcdef" in err and head.backbone["fingerprint"] in err
    )


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no such file. Make one with"),
        (b"no tensors", "is not a classifier that can be read"),
        ("other", "is not a classifier of"),
    ],
)
def test_what_is_no_head_is_told(tmp_path: Path, content: object, message: str) -> None:
    if content == "other":
        from safetensors.torch import save_file

        save_file({"x": torch.zeros(1)}, tmp_path / "head")
    elif isinstance(content, bytes):
        (tmp_path / "head").write_bytes(content)
    with pytest.raises(CheckpointError, match=message):
        load_head(tmp_path / "head")


def test_methods_are_checked_by_name_and_option() -> None:
    assert parse_method("upl:runs=4,lr=1e-3").options == {"runs": 4, "lr": 1e-3}
    for text, message in (
        ("gdaa", "did you mean 'gda'"),
        ("gda:alph=1", "did you mean 'alpha'"),
        ("gda:alpha", "write options as gda:option=value"),
        ("gda:alpha=x", "unable to parse string as a number"),
    ):
        with pytest.raises(ConfigError, match=message):
            parse_method(text)


# One of each way to learn: none, in closed form, by a search, of prompts, of an adapter, at test time.
FEW = ("zero_shot", "gda", "tip_adapter", "coop", "clip_adapter", "tpt", "x_more")


@pytest.mark.parametrize("named", [FEW, pytest.param(None, marks=pytest.mark.slow)], ids=["few", "every"])
def test_wrong_test_labels_change_no_prediction(
    reader: Reader, objects: list[Clip], tmp_path: Path, named: tuple[str, ...] | None
) -> None:
    """Planted in the split that is tested: methods of the bench, and a fitted head, predict the same."""
    train, tested = [c for c in objects if c.split == "train"], [c for c in objects if c.split == "test"]
    task = task_of(reader, train, prompts=True)
    wrong = dict(zip(task.classes.labels, [*task.classes.labels[1:], task.classes.labels[0]], strict=True))
    planted = [clip.model_copy(update={"label": wrong[str(clip.label)]}) for clip in tested]
    methods = {text: parse_method(text) for text in cheaply() if named is None or text.split(":")[0] in named}
    fits, accuracy = [], []
    for name, clips in (("true", tested), ("planted", planted)):
        found = bench(methods, task, reader, [Fold(train, [], clips)], [1], [0], tmp_path / name)
        lines = (tmp_path / name / "fits.jsonl").read_text().splitlines()
        fits.append([json.loads(line)["predicted"] for line in lines])
        accuracy.append([row["accuracy"] for row in found["rows"]])
    assert fits[0] == fits[1] and len(fits[0]) == len(methods) and accuracy[0] != accuracy[1]
    head = head_of(reader, objects)
    assert torch.equal(*(judge(head, reader, clips).found.probabilities for clips in (tested, planted)))


def test_a_bench_goes_on_and_reads_whole_lines_only(reader: Reader, objects: list[Clip], tmp_path: Path) -> None:
    train = [c for c in objects if c.split == "train"]
    task, folds = task_of(reader, train), make_folds(objects, classes_of(train), "train", None, "test", False)
    methods = {text: parse_method(text) for text in ("zero_shot", "gda", "proker")}
    whole = bench(methods, task, reader, folds, [1, 2], [0, 1], tmp_path / "whole")
    lines = (tmp_path / "whole" / "fits.jsonl").read_text().splitlines(keepends=True)
    assert len(lines) == 2 + 4 + 4
    held = {line["shots"]: line["validation"] for line in map(json.loads, lines) if line["seed"] == 0}
    assert held[0]["clips"] == 0 and held[2]["clips"] > 0 and held[1]["ids"] != held[2]["ids"]
    (tmp_path / "cut").mkdir()
    (tmp_path / "cut" / "fits.jsonl").write_text("".join(lines[:3]) + lines[3][:25])
    again = bench(methods, task, reader, folds, [1, 2], [0, 1], tmp_path / "cut")

    def figures(results: dict[str, object]) -> list[dict[str, object]]:
        return [{k: v for k, v in row.items() if k != "seconds"} for row in results["rows"]]  # type: ignore[attr-defined]

    assert figures(again) == figures(whole) and again["differences"] == whole["differences"]
    renamed = bench({"gda:": parse_method("gda:")}, task, reader, folds, [1, 2], [0, 1], tmp_path / "whole")
    assert [row["accuracy"] for row in renamed["rows"]] == [
        row["accuracy"] for row in whole["rows"] if row["method"] == "gda"
    ]
    assert (tmp_path / "whole" / "fits.jsonl").read_text() == "".join(lines)  # nothing was fitted again


def test_the_bench_command_writes_table_plot_and_json(
    shapes_store: FeatureStore, manifest: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ("--manifest", manifest, "--templates", "a {}", "--shots", 1, 2, "--seeds", 2, "--out", tmp_path / "b")
    methods = ("--methods", "zero_shot", "gda", "x_more", "clip_adapter:epochs=2")
    code, out, err = run(capsys, "classify", "bench", shapes_store.folder, *arguments, *methods, "--novel", "half")
    assert code == 0, err
    assert "left out: x_more: x_more needs a bank of captions" in out
    found = json.loads((tmp_path / "b" / "bench.json").read_text())
    table = (tmp_path / "b" / "bench.md").read_text()
    assert table in out and table.count("\n") == 2 + 3 and "harmonic mean" in table
    assert {row["method"] for row in found["rows"]} == {"zero_shot", "gda", "clip_adapter:epochs=2"}
    row = next(row for row in found["rows"] if row["method"] == "zero_shot")
    both = row["accuracy"], row["novel"]
    assert row["harmonic_mean"] == pytest.approx(2 * both[0] * both[1] / sum(both) if all(both) else 0)
    assert (tmp_path / "b" / "bench.png").read_bytes()[:4] == b"\x89PNG"


def test_other_classes_by_texts_alone(
    reader: Reader,
    objects: list[Clip],
    manifest: Path,
    shapes_store: FeatureStore,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for method, works in (("text_matrix", True), ("tip_adapter", False)):
        head_of(reader, objects, method).save(tmp_path / method)
        arguments = ("--store", shapes_store.folder, "--manifest", manifest, "--split", "test", "--templates", "a {}")
        code, _, err = run(capsys, "classify", "eval", tmp_path / method, *arguments, "--transfer")
        assert (code == 0) == works, err
        assert works or "knows only the classes it was fitted on" in err


def test_ensembles_average_and_weigh(reader: Reader, objects: list[Clip]) -> None:
    clips = [clip for clip in objects if clip.split == "test"]
    found = [judge(head_of(reader, objects, method), reader, clips).found for method in ("zero_shot", "gda")]
    mean = together(found)
    torch.testing.assert_close(mean.probabilities, (found[0].probabilities + found[1].probabilities) / 2)
    assert torch.equal(together(found, [0.0, 1.0]).probabilities, found[1].probabilities)
    chosen = weigh(found)
    best = together(found, list(chosen.values.values()))
    assert best.metrics()["top-1"] == pytest.approx(chosen.accuracy)
    assert best.metrics()["top-1"] >= max(one.metrics()["top-1"] for one in found) - 1e-9


def test_views_are_averaged(shapes: Path, tiny: OpenClip, objects: list[Clip], tmp_path: Path) -> None:
    ids = [clip.id for clip in objects if clip.split in ("train", "test")]
    clips = [clip for clip in read_manifest(shapes) if clip.id in ids]
    cache_features(
        clips, tmp_path / "s", tiny, FrameChoice(frames=12), extras=Extras(crops=True, augmentations=2), workers=0
    )
    store = FeatureStore(tmp_path / "s")
    reader = Reader(store, plain_model(store, frames=4))
    tested = [clip for clip in objects if clip.split == "test"]
    head = head_of(reader, objects, "gda")
    views = views_of(2, crops=True)
    assert len(views) == 6 and views_of(1, crops=False) == [View()]
    each = [judge(head, reader, tested, [view]).found.probabilities for view in views]
    torch.testing.assert_close(judge(head, reader, tested, views).found.probabilities, torch.stack(each).mean(0))
    assert not torch.allclose(each[0], each[3])  # other frames; the crops of square videos are alike
    support = reader.clips(tested, None)
    assert support.views is not None and support.views.shape[:2] == (2, len(tested))
    framed = reader.clips(tested, None, {"frames"})
    assert framed.crops is not None and framed.crops.shape[:3] == (3, len(tested), 4)
    tpt = fit_head(parse_method("tpt"), reader, task_of(reader, tested, True), Shots([], [], "none"))
    with pytest.raises(DataError, match="test it without --crops"):
        judge(tpt, reader, tested, views)


def test_interleaved_choices_share_the_frames() -> None:
    video = VideoFeatures.from_frames(torch.arange(12.0).view(1, 12, 1))
    taken = [interleaved(video, 3, number, 4).frames.flatten().tolist() for number in range(4)]
    assert sorted(n for part in taken for n in part) == list(range(12)) and taken[0] == [0, 4, 8]
    short = VideoFeatures.from_frames(torch.arange(12.0).view(1, 12, 1), torch.arange(12)[None] < 2)
    assert set(interleaved(short, 3, 0, 1).frames.flatten().tolist()) <= {0.0, 1.0}


def test_heads_on_a_trained_model_know_it(shapes_store: FeatureStore, objects: list[Clip], tmp_path: Path) -> None:
    model = create_model("tiny", temporal="conv", frames=8)
    model.save(tmp_path / "run" / "best")
    train = [clip for clip in objects if clip.split == "train"]
    reader = Reader(shapes_store, model.eval())
    task = task_of(reader, train)
    shots = draw(train, task.classes, 2, 0)
    head = fit_head(parse_method("gda"), reader, task, shots, checkpoint=tmp_path / "run")
    head.save(tmp_path / "head")
    files = [Path(clip.path) for clip in train[:2]]
    torch.testing.assert_close(
        predict_files(load_head(tmp_path / "head"), files, trust=True), predict_files(head, files)
    )
    create_model("tiny", temporal="lstm", frames=8).save(tmp_path / "run" / "best")
    with pytest.raises(CheckpointError, match="is not the model that pooled the clips"):
        predict_files(load_head(tmp_path / "head"), files, trust=True)
    shutil.rmtree(tmp_path / "run")
    with pytest.raises(CheckpointError, match="is no checkpoint"):
        predict_files(load_head(tmp_path / "head"), files, trust=True)


def test_shots_are_drawn_by_seed_and_repeat_where_too_few() -> None:
    clips = [
        Clip(id=f"{k}{n}", path="x", label=k, group=f"g{n % 3}") for k in "ab" for n in range(6 if k == "a" else 2)
    ]
    classes = classes_of(clips)
    first = draw(clips, classes, 3, 0)
    assert [c.label for c in first.support] == ["a"] * 3 + ["b"] * 3
    assert draw(clips, classes, 3, 0) == first and draw(clips, classes, 3, 1) != first
    assert len({c.id for c in first.support}) == 3 + len({c.id for c in first.support if c.label == "b"})
    held = {c.id for c in first.validation}
    assert held and not held & {c.id for c in first.support}
    assert draw(clips, classes, None, 0).support == [c for k in "ab" for c in clips if c.label == k]
    assert draw(clips, classes, 1, 0, validation=clips[:2]).validation == clips[:2]
    one = draw(clips, classes, 1, 5)
    assert not {c.group for c in one.support if c.label == "a"} & {c.group for c in one.validation if c.label == "a"}
    with pytest.raises(DataError, match="class 'c' has no clip to learn from"):
        draw(clips, classes_of([*clips, Clip(id="c", path="c", label="c")]), 1, 0)


def test_groups_are_left_out_whole() -> None:
    clips = [Clip(id=f"{n}", path="x", label="a", group=f"g{n % 3}") for n in range(6)]
    folds = leave_group_out(clips)
    assert len(folds) == 3
    for learned, tested in folds:
        assert len(tested) == 2 and not {c.group for c in learned} & {c.group for c in tested}
    with pytest.raises(DataError, match="has no group to leave out"):
        leave_group_out([Clip(id="x", path="x", label="a")])
    with pytest.raises(DataError, match="All clips are of one group"):
        leave_group_out(clips[:1])


def test_halves_of_a_class_list() -> None:
    base, novel = halves(load_classes("ucf101"))
    assert (len(base), len(novel)) == (51, 50) and base.labels[0] == "ApplyEyeMakeup"


@pytest.mark.slow
def test_every_method_on_real_clips(shared: Path, tiny: OpenClip, tmp_path: Path) -> None:
    """UCF101's three classes, one store with views and crops: each method is fitted and tested once."""
    root = shared / "videos" / "ucf101"
    clips = [
        Clip(id=p.relative_to(root).as_posix(), path=p, label=p.parent.name, split="train" if n % 2 else "test")
        for n, p in enumerate(sorted(root.rglob("*.avi")))
    ]
    extras = Extras(crops=True, augmentations=2)
    cache_features(clips, tmp_path / "s", tiny, FrameChoice(frames=4), extras=extras)
    store = FeatureStore(tmp_path / "s")
    reader, classes = Reader(store, plain_model(store)), classes_of(clips)
    bank = ["a baby crawls", "a man boxes", "push-ups", "two people fight"]
    task = Task.of(reader.model, classes, sentences_about(classes, "clip_ucf101"), True, bank)
    methods = {text: parse_method(text) for text in cheaply()}
    found = bench(
        methods, task, reader, make_folds(clips, classes, "train", None, "test", False), [1], [0], tmp_path / "b"
    )
    assert len(found["rows"]) == len(components("classifier")) and all(row["clips"] == 11 for row in found["rows"])


def test_recognition_metrics_against_loops() -> None:
    generator = torch.Generator().manual_seed(0)
    probabilities = torch.randn(40, 7, generator=generator).softmax(1)
    labels = torch.randint(6, (40,), generator=generator)  # one class never occurs
    found = Recognition(probabilities, labels)
    top = [row.argsort(descending=True).tolist() for row in probabilities]
    metrics = found.metrics()
    assert metrics["top-1"] == pytest.approx(
        100 * sum(t[0] == y for t, y in zip(top, labels.tolist(), strict=True)) / 40
    )
    assert metrics["top-5"] == pytest.approx(
        100 * sum(y in t[:5] for t, y in zip(top, labels.tolist(), strict=True)) / 40
    )
    per_class = [[t[0] == k for t, y in zip(top, labels.tolist(), strict=True) if y == k] for k in range(6)]
    assert metrics["mean_class"] == pytest.approx(100 * sum(sum(p) / len(p) for p in per_class) / 6)
    bins: dict[int, list[tuple[float, bool]]] = {}
    for row, y in zip(probabilities.tolist(), labels.tolist(), strict=True):
        bins.setdefault(min(14, int(max(row) * 15)), []).append((max(row), row.index(max(row)) == y))
    gaps = [abs(sum(c for c, _ in b) / len(b) - sum(h for _, h in b) / len(b)) * len(b) / 40 for b in bins.values()]
    assert metrics["calibration_error"] == pytest.approx(100 * sum(gaps), rel=1e-4)
    assert found.confusion.sum() == 40 and found.confusion.diagonal().sum() == round(40 * metrics["top-1"] / 100)
    with pytest.raises(DataError, match="NaN"):
        Recognition(probabilities / 0 * 0, labels)


def test_what_would_spoil_a_number_is_refused_or_said(
    reader: Reader,
    objects: list[Clip],
    manifest: Path,
    shapes_store: FeatureStore,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name in ("zero_shot", "gda"):
        head_of(reader, objects, name).save(tmp_path / name)
    both, common = (tmp_path / "zero_shot", tmp_path / "gda"), ("--manifest", manifest, "--store", shapes_store.folder)
    code, out, _ = run(capsys, "classify", "eval", *both, *common, "--weigh-on", "test")
    assert code == 0 and "the weights were chosen on" in out and "this is no test" in out
    code, out, _ = run(capsys, "classify", "eval", both[1], *common, "--split", "train")
    assert code == 0 and "of these clips were fitted or tuned on: this is no test" in out
    code, _, err = run(capsys, "classify", "eval", both[1], *common, "--protocol", "ucf101_split1")
    assert code == 1 and "has 3783 videos" in err  # test is the split, though nobody said so
    classes = classes_of(objects)
    for train, validation in (("test", None), ("train", "test")):
        with pytest.raises(DataError, match="would also be learned from or chosen on"):
            make_folds(objects, classes, train, validation, "test", False)
    bench_of = ("classify", "bench", shapes_store.folder, "--manifest", manifest, "--shots", 1, "--seeds", 1)
    for more, message in (
        (("--methods", "x_more"), "No method could run: x_more: x_more needs a bank"),
        (("--methods", "gda", "gda:"), "named twice"),
        (("--methods", "gda", "--novel", "val"), "novel classes are learned, too"),
        (("--methods", "gda", "--leave-group-out", "--bank", manifest), "give --bank a text"),
    ):
        code, _, err = run(capsys, *bench_of, *more, "--out", tmp_path / "b")
        assert code == 1 and message in err, err
    code, _, err = run(capsys, "classify", "fit", shapes_store.folder, "--checkpoint", tmp_path, "--frames", 2)
    assert code == 1 and "a --checkpoint has a number of its own" in err


def test_a_bench_fits_again_when_features_change(reader: Reader, objects: list[Clip], tmp_path: Path) -> None:
    train = [c for c in objects if c.split == "train"]
    task, folds = task_of(reader, train), make_folds(objects, classes_of(train), "train", None, "test", False)
    for frames, lines in ((12, 1), (12, 1), (3, 2)):
        other = Reader(reader.store, plain_model(reader.store, frames=frames))
        bench({"gda": parse_method("gda")}, task, other, folds, [1], [0], tmp_path)
        assert len((tmp_path / "fits.jsonl").read_text().splitlines()) == lines


def test_models_that_pool_no_clip_alone_are_refused(shapes_store: FeatureStore) -> None:
    with pytest.raises(DataError, match="gives no vector of a clip alone"):
        Reader(shapes_store, create_model("tiny", similarity="query_scoring").eval()).clips(
            [Clip(id=i, path=i) for i in shapes_store.ids], None
        )
    with pytest.raises(DataError, match="holds no pixels"):
        Reader(shapes_store, create_model("tiny", image_tuning="full").eval())
