"""Recognition by the training loop: its losses, its mixed pixels, whole runs, resuming, two processes."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.helpers.training import losses, stopped_before
from tests.helpers.two_processes import Gradients, OfTwo, check, gradients_of
from videoclip.backbone.openclip import OpenClip
from videoclip.cli import main
from videoclip.compare.runs import compare, describe
from videoclip.config import RunConfig, TrainConfig
from videoclip.data.classes import classes_of, load_classes, sentences_about
from videoclip.data.manifest import labelled, read_manifest
from videoclip.errors import ConfigError, DataError
from videoclip.features import TextFeatures, VideoFeatures, VideoPixels
from videoclip.model import create_model, load_model
from videoclip.store import FeatureStore
from videoclip.store.dataset import Batch
from videoclip.store.extract import Extras, cache_features
from videoclip.training.loop import train
from videoclip.training.recognition import (
    RecognitionTask,
    Subject,
    blended,
    class_scores,
    cut_and_paste,
    evaluate_classes,
)
from videoclip.video.clip import FrameChoice

LISTED = load_classes("motions")
CASES: dict[str, dict[str, Any]] = {
    "classes": {"objective": "classes", "label_smoothing": 0.1},
    "pairs": {"objective": "pairs", "loss": "label_kl", "same_pairs": "positive"},
    "m2clip": {
        "objective": {"pairs": 0.5, "classes": 0.5, "visual": 1.0},
        "loss": "label_kl",
        "same_pairs": "positive",
    },
}


def subject(templates: str = "a shape {}") -> Subject:
    return Subject(LISTED, sentences_about(LISTED, templates))


def task(name: str, text_tuning: str = "full") -> RecognitionTask:
    torch.manual_seed(0)
    model = create_model("tiny", temporal="conv_adapter", text_tuning=text_tuning, frames=5)
    torch.nn.init.normal_(model.temporal.conv.weight, std=0.2)
    made = RecognitionTask(model, TrainConfig.model_validate(CASES[name]), subject())
    return made.eval()  # without the visual head's dropout


def whole_batch(tiny: OpenClip) -> Batch:
    generator = torch.Generator().manual_seed(1)
    mask = torch.arange(5) < torch.tensor([5, 3, 1, 4, 2, 5])[:, None]
    video = VideoFeatures.from_frames(torch.randn(6, 5, 128, generator=generator), mask)
    labels = torch.tensor([0, 3, 0, 7, 3, 10])
    tokens = tiny.tokenize([f"a shape {LISTED.phrases[label]}" for label in labels])
    return Batch(video, tokens, torch.arange(6), labels)


def in_double(batch: Batch) -> Batch:
    return replace(batch, video=batch.video.to(torch.float64))  # type: ignore[arg-type]


def one_of_two(rank: int) -> dict[str, Gradients]:
    from videoclip.backbone import create_backbone

    backbone = create_backbone("tiny")
    assert isinstance(backbone, OpenClip)
    share = in_double(whole_batch(backbone))[torch.arange(rank, 6, 2)]
    found = {}
    for name in CASES:
        module = task(name).double()
        module.backward(share, 0.3)
        found[name] = gradients_of(module)
    return found


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_two_processes_give_the_gradients_of_one(name: str, of_two: OfTwo, tiny: OpenClip) -> None:
    module = task(name).double()
    module.backward(in_double(whole_batch(tiny)), 0.3)
    for found in of_two[__name__]:
        check(found[name], gradients_of(module))


def test_the_loss_is_cross_entropy_over_class_texts(tiny: OpenClip) -> None:
    """By hand, for a frozen text tower; sentences of a class are averaged in scores."""
    batch = whole_batch(tiny)
    model = create_model("tiny", frames=5)
    two = Subject(LISTED, sentences_about(LISTED, "a shape {}"))
    two = Subject(LISTED, replace(two.sentences, texts=tuple((t[0], f"it {t[0]}") for t in two.sentences.texts)))
    made = RecognitionTask(model, TrainConfig.model_validate(CASES["classes"]), two)
    text = tiny.encode_text(tiny.tokenize(two.texts)).sentence
    pooled = model.similarity.pool(model.encode_video(batch.video))
    cosines = (F.normalize(text, dim=-1).view(11, 2, -1).mean(1) @ pooled.T).T
    expected = F.cross_entropy(model.logit_scale.exp() * cosines, batch.text_ids, label_smoothing=0.1)
    with_text = replace(batch, text=TextFeatures(torch.randn(6, 128)))
    torch.testing.assert_close(made(with_text), expected)
    scores = class_scores(model, TextFeatures(text), model.encode_video(batch.video), 11)
    torch.testing.assert_close(scores, cosines)


def test_parts_give_the_gradients_of_the_whole(tiny: OpenClip) -> None:
    found = {}
    for size in (None, 2):
        module = task("m2clip")
        module._config = module._config.model_copy(update={"encode_at_once": size})
        module.backward(whole_batch(tiny))
        found[size] = gradients_of(module)
    assert set(found[2]) == set(found[None])
    for name, gradient in found[None].items():
        torch.testing.assert_close(found[2][name], gradient, atol=1e-5, rtol=1e-3)


def pixels(seed: int, clips: int = 4) -> VideoPixels:
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, 4, (clips,), generator=generator)
    mask = torch.arange(3) < lengths[:, None]
    shown = torch.rand(clips, 3, 3, 8, 8, generator=generator) * mask[:, :, None, None, None]
    return VideoPixels(shown, mask, torch.zeros(clips, 3))


@settings(max_examples=40)
@given(seed=st.integers(0, 10_000), share=st.floats(0, 1))
def test_mixing_keeps_what_is_alone_and_tells_the_true_share(seed: int, share: float) -> None:
    video = pixels(seed)
    both = (video.mask & video.mask.flip(0))[:, :, None, None, None].expand_as(video.pixels)
    torch.manual_seed(seed)
    for mix in (blended, cut_and_paste):
        mixed, stayed = mix(video, share)
        assert torch.equal(mixed.mask, video.mask) and 0 <= stayed <= 1
        assert torch.equal(mixed.pixels[~both], video.pixels[~both])
        if mix is blended:
            expected = share * video.pixels + (1 - share) * video.pixels.flip(0)
            torch.testing.assert_close(mixed.pixels[both], expected[both])
            assert stayed == share
        else:
            changed = (mixed.pixels != video.pixels).any(2)
            inside = changed.flatten(0, 1).any(0)  # the same box for all frames of all clips
            assert inside.sum() <= round((1 - stayed) * 64) + 1e-6
            partner = torch.where(both, video.pixels.flip(0), video.pixels)
            assert ((mixed.pixels == video.pixels) | (mixed.pixels == partner)).all()


def test_targets_follow_the_mixing(tiny: OpenClip) -> None:
    torch.manual_seed(0)
    values = {"objective": "classes", "label_smoothing": 0.1, "pixel_mixup": 0.8, "pixel_cutmix": 1.0}
    made = RecognitionTask(create_model("tiny", frames=3), TrainConfig.model_validate(values), subject())
    labels = torch.tensor([0, 1, 2, 3])
    raw = VideoPixels(
        torch.randint(0, 256, (4, 3, 3, 64, 64), dtype=torch.uint8), torch.ones(4, 3).bool(), torch.zeros(4, 3)
    )
    batch = Batch(raw, TextFeatures(torch.randn(4, 128)), torch.arange(4), labels)
    for _ in range(5):
        mixed = made.prepared(batch)
        assert mixed.targets is not None and mixed.video.pixels.is_floating_point()  # type: ignore[union-attr]
        torch.testing.assert_close(mixed.targets.sum(1), torch.ones(4))
        torch.testing.assert_close(mixed.targets.sum(0)[:4], torch.full((4,), 0.9 + 4 * 0.1 / 11))
    made.backward(mixed)
    plain = RecognitionTask(create_model("tiny", frames=3), TrainConfig(objective={"classes": 1}), subject())  # type: ignore[arg-type]
    assert plain.prepared(batch) is batch


@pytest.fixture(scope="module")
def config(shapes: Path, shapes_store: FeatureStore) -> RunConfig:
    values = {
        "data": {
            "manifest": shapes,
            "store": shapes_store.folder,
            "sampling": "random",
            "classes": {"list": "motions", "templates": "a shape {}"},
        },
        "model": {"temporal": "lstm", "text_tuning": "full", "frames": 6},
        "train": {
            **CASES["m2clip"],
            **{"epochs": 2, "batch_size": 8, "lr": 1e-3, "tower_lr": 1e-3, "checkpoint_steps": 1, "seed": 3},
        },
    }
    return RunConfig.model_validate(values)


@pytest.fixture(scope="module")
def finished(config: RunConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("run") / "whole"
    train(config, out)
    return out


def test_a_run_learns_tests_and_is_compared(finished: Path, shapes: Path, shapes_store: FeatureStore) -> None:
    found = losses(finished)
    assert len(found) == 6 and sum(found[-2:]) < sum(found[:2])
    report = json.loads((finished / "report.json").read_text())
    assert report["selected_by"] == "val top-1" and report["test"]["test"]["clips"] == 12
    assert {"top-1", "top-5", "mean_class", "calibration_error", "class_list", "sentences"} <= set(
        report["test"]["test"]
    )
    again = evaluate_classes(load_model(finished), shapes_store, labelled(read_manifest(shapes), "test", ""), subject())
    assert again.metrics["top-1"] == report["test"]["test"]["top-1"]
    assert "| split | top-1 | top-5 |" in (finished / "README.md").read_text()
    text = describe(compare(finished, finished))
    assert "test classes/R@1" in text and "cannot tell" in text
    model = load_model(finished)
    assert not any("visual.1" in name for name, _ in model.named_parameters())


def test_resuming_ends_as_the_uninterrupted_run(config: RunConfig, finished: Path, tmp_path: Path) -> None:
    with stopped_before(4):
        train(config, tmp_path / "run")
    train(config, tmp_path / "run", resume=True)
    assert losses(tmp_path / "run") == losses(finished)
    mine, theirs = (load_model(run).state_dict() for run in (tmp_path / "run", finished))
    assert all(torch.equal(mine[name], theirs[name]) for name in theirs)


def test_pixels_mixed_and_classified(
    shapes: Path, tiny: OpenClip, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """ViFi-CLIP's recipe on stored pixels, then a classifier on the trained tower, and a prediction on a file."""
    cache_features(
        read_manifest(shapes), tmp_path / "s", tiny, FrameChoice(frames=6), extras=Extras(pixels="uint8"), workers=0
    )
    values = {
        "data": {
            **{"manifest": shapes, "store": tmp_path / "s", "source": "videos"},
            "classes": {"list": "motions", "templates": "a shape {}"},
        },
        "model": {"image_tuning": "full", "text_tuning": "full", "frames": 3},
        "train": {
            **{"objective": "classes", "label_smoothing": 0.1, "pixel_mixup": 0.8, "pixel_cutmix": 1.0},
            **{"epochs": 1, "batch_size": 12, "precision": "fp32", "workers": 0},
        },
    }
    train(RunConfig.model_validate(values), tmp_path / "run")
    assert len(losses(tmp_path / "run")) == 2
    fit = ["fit", tmp_path / "s", "--manifest", shapes, "--split", "train", "--shots", 1, "--classes", "motions"]
    more = ["--checkpoint", tmp_path / "run", "--method", "zero_shot", "--templates", "a shape {}"]
    out = ["--out", tmp_path / "h"]
    assert main(["classify", *map(str, fit + more + out)]) == 0
    film = labelled(read_manifest(shapes), "test", "")[0].path
    assert main(["classify", "predict", str(film), "--head", str(tmp_path / "h"), "-k", "11", "--trust"]) == 0
    shown = capsys.readouterr().out
    assert sum(line.startswith("  ") for line in shown.splitlines()) == 11


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"train": {"objective": "classes"}}, "needs classes: set data.classes"),
        ({"train": {"objective": {"pairs": 0}}}, "at least one weight must be above 0"),
        ({"train": {"objective": "class"}}, "no such key: 'class'; did you mean 'classes'"),
        ({"select": {"metric": "top-1"}}, "is not one of this task"),
        (
            {"data": {"classes": {"list": "x"}}, "select": {"metric": "text_to_video/R@1"}},
            "with data.classes take top-1",
        ),
        ({"data": {"classes": {}}, "train": {"objective": "classes", "pixel_mixup": 0.8}}, "need data.source: videos"),
        ({"data": {"classes": {}}, "train": {"objective": "classes", "distillation": 0.1}}, "teaches scores of pairs"),
    ],
)
def test_what_does_not_fit_together_is_told(change: dict[str, Any], message: str) -> None:
    from videoclip.config import parse

    values: dict[str, Any] = {"data": {"manifest": "m", "store": "s"}}
    for section, part in change.items():
        values[section] = {**values.get(section, {}), **part}
    with pytest.raises(ConfigError, match=message):
        parse(values, RunConfig, "here")


def test_a_label_that_no_class_has_is_told_before_the_training(config: RunConfig, tmp_path: Path) -> None:
    (tmp_path / "few.txt").write_text("left\nright\n")
    data = config.data.model_copy(
        update={"classes": config.data.classes.model_copy(update={"list": str(tmp_path / "few.txt")})}
    )  # type: ignore[union-attr]
    with pytest.raises(DataError, match="is not in the list few of 2 classes"):
        train(config.model_copy(update={"data": data}), tmp_path / "run")


def test_classes_come_from_the_labels_where_no_list_is_named(shapes: Path) -> None:
    clips = labelled(read_manifest(shapes), "train", shapes)
    found = classes_of(clips)
    assert set(found.labels) <= set(LISTED.labels) and list(found.labels) == sorted(found.labels)
