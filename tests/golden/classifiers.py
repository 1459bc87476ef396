"""Recordings of few-shot classifiers and of learned prompts."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tests.golden.recording import Recording
from tests.helpers.backbones import backbone_of
from videoclip import registry
from videoclip.backbone.walk import Tower
from videoclip.classifier import ClassTexts, Clips, Lesson, right
from videoclip.classifier.clip_adapter import ClipAdapter
from videoclip.classifier.coop import Coop
from videoclip.classifier.parts.learning import leaf, learn
from videoclip.classifier.parts.prompts import Layout, PromptTower
from videoclip.layers import unit

START = ("beta", "alpha", "gamma")


def lesson_of(recording: Recording, support: Clips | None, weights: str = "clip_weights", **more: Any) -> Lesson:
    """The recorded task: class texts of unit length, a scale of 100, validation clips."""
    columns = recording.inputs[weights].detach().T
    texts = ClassTexts(tuple(map(str, range(len(columns)))), tuple(column[None] for column in columns))
    return Lesson(texts, 100.0, support, clips_of(recording, "val"), **more)


def clips_of(recording: Recording, name: str) -> Clips:
    features, labels = recording.inputs[f"{name}_features"], recording.inputs[f"{name}_labels"]
    return Clips(features.detach(), labels)


def searched(recording: Recording, kind: str, names: tuple[str, ...], **more: Any) -> Any:
    """A classifier with the recorded grid and start values."""
    o = recording.options
    options = {name: o[f"init_{name}"] for name in names}
    for name, scale, step in zip(names, o["search_scale"], o["search_step"], strict=False):
        options |= {f"{name}_max": scale, f"{name}_steps": step}
    return registry.create("classifier", kind, {**options, **more})


def accuracy(logits: Tensor, clips: Clips) -> float:
    return 100 * right(logits, clips.known) / len(clips)


def check_choice(found: Mapping[str, float], expected: Mapping[str, float]) -> None:
    assert {n: v for n, v in found.items() if n in expected} == pytest.approx(dict(expected), rel=1e-6)


def tip_adapter(recording: Recording, folder: Path) -> None:
    views, expected = recording.inputs["train_features"].detach(), recording.case["expected"]
    lesson = lesson_of(recording, Clips(views[0], recording.inputs["train_labels"], views))
    test, validation, head = (
        clips_of(recording, "test"),
        lesson.validation,
        searched(recording, "tip_adapter", START[:2]),
    )
    assert validation is not None
    head.fit(lesson)
    check_choice(head.found.values, {"beta": expected["best_beta"], "alpha": expected["best_alpha"]})
    mine = {"cache_keys": head.tensors["keys"].T, "cache_values": head.tensors["values"]}
    mine["zero_shot_test_logits"], mine["test_logits_best"] = head.zero_shot(test), head.logits(test)
    assert accuracy(mine["test_logits_best"], test) == pytest.approx(expected["test_accuracy"])
    assert accuracy(mine["zero_shot_test_logits"], test) == pytest.approx(expected["zero_shot_test_accuracy"])
    head.keep(**head.start)
    recording.check({**mine, "val_logits_init": head.logits(validation)})


def tip_adapter_f(recording: Recording, folder: Path) -> None:
    """The authors' choice of the epoch, on the test clips, is made here; the classifier makes it on validation clips."""
    o, expected = recording.options, recording.case["expected"]
    options = {"lr": o["lr"], "epochs": o["train_epoch"], "batch": o["batch_size"]}
    head = searched(recording, "tip_adapter_f", START[:2], **options)
    rows, labels = recording.inputs["train_images"].detach(), recording.inputs["train_labels"]
    keys = leaf(recording.inputs["cache_keys"].T)
    lesson, test = lesson_of(recording, Clips(keys.detach(), labels)), clips_of(recording, "test")
    head.keep(scale=lesson.scale, weights=lesson.texts.weights, values=F.one_hot(labels).float())
    first, epochs, correct, mine = recording.inputs["train_order"][0, : o["batch_size"]], [], [], {}
    mine["first_batch_logits"] = head.with_keys(keys, rows[first])

    def backward(index: Tensor) -> None:
        F.cross_entropy(head.with_keys(keys, rows[index]), labels[index]).backward()

    def note() -> None:
        with torch.no_grad():
            epochs.append(keys.detach().clone())
            correct.append(accuracy(head.with_keys(keys, test.pooled), test))

    learn([keys], backward, len(rows), head.schedule, orders=recording.inputs["train_order"], after_epoch=note)
    assert correct == pytest.approx(expected["test_accuracy_per_epoch"])
    best = epochs[correct.index(max(correct))]
    mine |= {"adapter_weight_last": epochs[-1], "adapter_weight_best": best}
    mine["test_logits_last_epoch"] = head.with_keys(epochs[-1], test.pooled)
    head.keep(keys=best)
    head.choose(head.search(lesson.validation))
    check_choice(head.found.values, {"beta": expected["best_beta"], "alpha": expected["best_alpha"]})
    recording.check({**mine, "test_logits_best": head.logits(test)})


def ape(recording: Recording, folder: Path) -> None:
    o, expected = recording.options, recording.case["expected"]
    keys = recording.inputs["cache_keys"].detach().T
    lesson, test = lesson_of(recording, Clips(keys, recording.inputs["train_labels"])), clips_of(recording, "test")
    similarity, variance = o["w_training_free"]
    criterion = {"similarity_weight": similarity, "variance_weight": variance}
    head = searched(recording, "ape", START, channels=o["training_free_feat_num"], **criterion)
    head.fit(lesson)
    check_choice(head.found.values, expected["best"])
    assert head.found.accuracy == pytest.approx(expected["best_val_accuracy"])
    mine = {"indices": head.tensors["chosen"], "test_logits_best": head.logits(test)}
    assert accuracy(mine["test_logits_best"], test) == pytest.approx(expected["test_accuracy"])
    head.keep(**head.start)
    recording.check({**mine, "test_logits_init": head.logits(test)})


def ape_t(recording: Recording, folder: Path) -> None:
    o, weights, labels = (
        recording.options,
        recording.inputs["clip_weights"].detach().T,
        recording.inputs["train_labels"],
    )
    similarity, variance = o["w_training"]
    criterion = {"similarity_weight": similarity, "variance_weight": variance}
    head = searched(recording, "ape_t", START[:2], channels=o["training_feat_num"], **criterion)
    head.prepare(recording.inputs["cache_keys_rows"].detach(), labels, weights, 100.0)
    residual, clip_weights = leaf(recording.weights["res"]), leaf(recording.weights["value_weights"])
    keys, texts, values = head.moved(residual, clip_weights)
    test = clips_of(recording, "test")
    mine = {"new_keys": keys, "new_clip_weights": texts.T, "new_values": values, "indices": head.tensors["chosen"]}
    mine["logits"] = head.score(test.pooled, keys, texts, values)
    mine["loss"] = F.cross_entropy(mine["logits"], test.known)
    mine["loss"].backward()
    recording.check({**mine, "grad.res": residual.grad, "grad.value_weights": clip_weights.grad})


def gda(recording: Recording, folder: Path) -> None:
    views, expected = recording.inputs["train_features"].detach(), recording.case["expected"]
    lesson = lesson_of(recording, Clips(views[0], recording.inputs["train_labels"], views))
    test, validation, head = clips_of(recording, "test"), lesson.validation, registry.create("classifier", "gda")
    assert validation is not None
    head.fit(lesson)
    check_choice(head.found.values, {"alpha": expected["best_alpha"]})
    mine = {"test_logits_best": head.logits(test)}
    assert accuracy(mine["test_logits_best"], test) == pytest.approx(expected["test_accuracy"])
    assert head.found.grid["alpha"] == recording.options["alpha_grid"]
    for alpha, percent in expected["val_accuracy_per_alpha"].items():
        head.keep(alpha=float(alpha))
        logits = head.logits(validation)
        assert accuracy(logits, validation) == pytest.approx(percent)
        mine[f"val_logits_alpha_{float(alpha):g}"] = logits
    recording.check(mine)


def gda_base_to_new(recording: Recording, folder: Path) -> None:
    support = Clips(recording.inputs["train_features"].detach(), recording.inputs["train_labels"])
    lesson, expected = lesson_of(recording, support), recording.case["expected"]
    head = registry.create("classifier", "gda", {"covariance": "class_mean"})
    head.fit(lesson)
    new = head.transferred(lesson_of(recording, None, "clip_weights_new").texts)
    test, labels = clips_of(recording, "test"), recording.inputs["test_labels_new"]
    test_new = Clips(recording.inputs["test_features_new"].detach(), labels)
    check_choice(head.found.values, {"alpha": expected["best_alpha"]})
    mine = {"base_test_logits": head.logits(test), "new_test_logits": new.logits(test_new)}
    assert accuracy(mine["base_test_logits"], test) == pytest.approx(expected["base_accuracy"])
    assert accuracy(mine["new_test_logits"], test_new) == pytest.approx(expected["new_accuracy"])
    head.keep(alpha=1.0)
    assert lesson.validation is not None
    recording.check({**mine, "base_val_logits_alpha_1": head.logits(lesson.validation)})


def proker(recording: Recording, folder: Path) -> None:
    o, expected, test = recording.options, recording.case["expected"]["searched"], clips_of(recording, "test")
    lesson = lesson_of(recording, Clips(recording.inputs["train_features"].detach(), recording.inputs["train_labels"]))
    (low, high, count), (least, most, points) = o["search"]["beta"], o["search"]["lmbda"]
    grid = {"beta_min": low, "beta_max": high, "beta_steps": count}
    grid |= {"ridge_min": least, "ridge_max": most, "ridge_steps": points}
    fixed = {"beta": o["fixed"]["beta"], "ridge": o["fixed"]["lmbda"]}
    head = registry.create("classifier", "proker", {**grid, **fixed})
    head.fit(lesson)
    check_choice(head.found.values, {"beta": expected["beta"], "ridge": expected["lmbda"]})
    mine = {"test_logits_searched": head.logits(test)}
    assert accuracy(mine["test_logits_searched"], test) == pytest.approx(expected["test_accuracy"])
    head.fit(Lesson(lesson.texts, lesson.scale, lesson.support))
    recording.check({**mine, "test_logits_fixed": head.logits(test)})


def clip_adapter(recording: Recording, folder: Path) -> None:
    o = recording.options
    head = ClipAdapter(o["reduction"], o["ratio"])
    down, up = (leaf(recording.weights[f"adapter.fc.{number}.weight"]) for number in (0, 2))
    pooled = recording.inputs["image_features"].detach()
    head.keep(scale=recording.weights["logit_scale"].exp(), weights=unit(recording.inputs["text_features"].detach()))
    adapted = head.adapt(pooled, down, up)
    mine = {"adapter_output": (adapted - (1 - head.ratio) * pooled) / head.ratio}
    mine["logits"] = head.zero_shot(Clips(adapted))
    mine["loss"] = F.cross_entropy(mine["logits"], recording.inputs["labels"])
    mine["loss"].backward()
    recording.check({**mine, "grad.adapter.fc.0.weight": down.grad, "grad.adapter.fc.2.weight": up.grad})


def task_res(recording: Recording, folder: Path) -> None:
    head = registry.create("classifier", "task_res", {"alpha": recording.options["RESIDUAL_SCALE"]})
    embeddings = recording.inputs["template_embeddings"].detach()
    texts = ClassTexts(tuple(map(str, range(len(embeddings)))), tuple(embeddings))
    residual = leaf(recording.weights["prompt_learner.text_feature_residuals"])
    scale = leaf(recording.weights["logit_scale"])
    mine = {"text_features": head.moved(texts.plain, residual)}
    mine["logits"] = scale.exp() * unit(recording.inputs["image_features"]) @ unit(mine["text_features"]).T
    mine["loss"] = F.cross_entropy(mine["logits"], recording.inputs["labels"])
    mine["loss"].backward()
    gradients = {"prompt_learner.text_feature_residuals": residual.grad, "logit_scale": scale.grad}
    recording.check({**mine, **{f"grad.{name}": gradient for name, gradient in gradients.items()}})


def prompted(recording: Recording, folder: Path) -> tuple[Any, PromptTower, Layout]:
    """The recorded towers, and the recorded prompts with room for the context."""
    o = recording.options
    towers = {n.replace("image_encoder.", "visual."): t for n, t in recording.weights.items()}
    towers = {n.removeprefix("text_encoder."): t for n, t in towers.items() if not n.startswith("prompt_learner.")}
    towers["token_embedding.weight"] = recording.inputs["token_embedding"].detach()
    backbone = backbone_of(folder, towers, o["vision_heads"], o["text_heads"])
    tower = PromptTower(Tower("text", backbone.text_tower, "recorded", backbone.tokenize))
    tokens = recording.inputs["tokenized_prompts"]
    lengths = recording.inputs.get("name_lens", torch.zeros(len(tokens), dtype=torch.long))
    return backbone, tower, Layout(tokens, tower.embed(tokens), lengths, o["N_CTX"])


def coop(recording: Recording, folder: Path) -> None:
    backbone, tower, layout = prompted(recording, folder)
    head = Coop(position=recording.options["CLASS_TOKEN_POSITION"], per_class=recording.options["CSC"])
    vectors = leaf(recording.weights["prompt_learner.ctx"])
    mine = {"prompts": layout.filled(vectors, head.position)}
    mine["text_features"] = tower.encode(mine["prompts"], layout.tokens)
    image = unit(backbone.encode_image(recording.inputs["image"]))
    mine["logits"] = recording.weights["logit_scale"].exp() * image @ head.weights(tower, layout, vectors).T
    mine["loss"] = F.cross_entropy(mine["logits"], recording.inputs["labels"])
    mine["loss"].backward()
    recording.check({**mine, "grad.prompt_learner.ctx": vectors.grad})


def cocoop(recording: Recording, folder: Path) -> None:
    backbone, tower, layout = prompted(recording, folder)
    head = registry.create("classifier", "cocoop")
    head.tower = tower
    head.keep(scale=recording.weights["logit_scale"].exp())
    own = {"vectors": "ctx", "first": "meta_net.linear1.weight", "first_bias": "meta_net.linear1.bias"}
    own |= {"second": "meta_net.linear2.weight", "second_bias": "meta_net.linear2.bias"}
    parameters = {ours: leaf(recording.weights[f"prompt_learner.{theirs}"]) for ours, theirs in own.items()}
    pooled = backbone.encode_image(recording.inputs["image"]).detach()
    mine = {"prompts": head.prompts(unit(pooled), parameters, layout), "logits": head.score(pooled, parameters, layout)}
    mine["loss"] = F.cross_entropy(mine["logits"], recording.inputs["labels"])
    mine["loss"].backward()
    mine |= {f"grad.prompt_learner.{theirs}": parameters[ours].grad for ours, theirs in own.items()}
    recording.check(mine)


RUNNERS = {
    "fewshot_tip_adapter": tip_adapter,
    "fewshot_tip_adapter_f": tip_adapter_f,
    "fewshot_ape": ape,
    "fewshot_ape_t": ape_t,
    "fewshot_gda": gda,
    "fewshot_gda_base2new": gda_base_to_new,
    "fewshot_proker": proker,
    "fewshot_clip_adapter": clip_adapter,
    "fewshot_taskres": task_res,
    "cocoop": cocoop,
    **{f"coop_{kind}_{place}": coop for kind in ("generic", "csc") for place in ("end", "middle", "front")},
}
