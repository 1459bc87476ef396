"""Gradients of two real processes (gloo) equal those of one with the joined batch."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from tests.helpers.two_processes import Gradients, OfTwo, check, gradients_of
from videoclip.backbone.openclip import OpenClip
from videoclip.config import TrainConfig
from videoclip.errors import DataError
from videoclip.features import TextFeatures, VideoFeatures
from videoclip.loss import Pairs
from videoclip.model import VideoTextModel, create_model
from videoclip.registry import components, create
from videoclip.store.dataset import Batch
from videoclip.temporal import TemporalEncoder
from videoclip.training.task import ContrastiveTask, backwards

# Each with what is awkward to gather: nothing, words of unequal length and a loss of channels, coarse frames and two
# losses, a loss of the temporal encoder that reads what the similarity made of the text.
MODELS: dict[str, tuple[str, dict[str, object], str, dict[str, object]]] = {
    "plain": ("transformer", {"layers": 1, "heads": 2}, "query_scoring", {}),
    "pooled": ("transformer", {"layers": 1, "heads": 2}, "mean", {}),
    "words": ("none", {}, "tokens", {"decorrelation": 0.1}),
    "coarse": ("difference", {"layers": 1, "heads": 2, "coarse": "difference"}, "alignment", {}),
    "guided": ("aligner", {"heads": 2, "dropout": 0.0}, "semantic", {"hidden": 16, "heads": 2, "dropout": 0.0}),
}


# Each a model and what the training is told; every loss is among them.
CASES: dict[str, tuple[str, dict[str, object]]] = {
    **{name: (name, {}) for name in MODELS},
    **{loss: ("plain", {"loss": loss}) for loss in components("loss")},
    "positives": ("plain", {"loss": "label_kl", "same_pairs": "positive"}),
    "mixup": ("pooled", {"mixup": 0.1}),
    "reversed": ("plain", {"reversed_negatives": True}),
    "parts": ("plain", {"encode_at_once": 2, "reversed_negatives": True}),
    "parts of words": ("words", {"encode_at_once": 1}),
    "parts, coarse": ("coarse", {"encode_at_once": 2}),
}


def task(name: str = "plain", options: dict[str, object] | None = None) -> ContrastiveTask:
    torch.manual_seed(0)
    temporal, temporal_options, similarity, similarity_options = MODELS[name]
    parts = (
        create("temporal", temporal, temporal_options, width=16),
        create("similarity", similarity, similarity_options, width=16),
    )
    for part in parts:
        for parameter in part.parameters():
            torch.nn.init.normal_(parameter, std=0.2)
    return ContrastiveTask(VideoTextModel(None, *parts, logit_scale=2.0), TrainConfig.model_validate(options or {}))


def whole_batch() -> Batch:
    generator = torch.Generator().manual_seed(1)
    mask = torch.arange(5) < torch.tensor([5, 3, 1, 4, 2, 5])[:, None]
    video = VideoFeatures.from_frames(torch.randn(6, 5, 16, generator=generator), mask)
    sentence, words = torch.randn(6, 16, generator=generator), torch.randn(6, 7, 16, generator=generator)
    text = TextFeatures(sentence, words, torch.arange(7) < torch.tensor([7, 3, 2, 4, 5, 4])[:, None])
    return Batch(video, text, torch.tensor([0, 1, 2, 0, 3, 4]), torch.tensor([0, 1, 2, 3, 1, 4]))


def in_double(batch: Batch) -> Batch:
    assert isinstance(batch.text, TextFeatures)
    return Batch(batch.video.to(torch.float64), batch.text.to(torch.float64), batch.video_ids, batch.text_ids)


def gradients(module: ContrastiveTask, batch: Batch) -> Gradients:
    module.backward(batch, 0.3)
    return gradients_of(module)


def one_of_two(rank: int) -> dict[str, Gradients]:
    batch = in_double(whole_batch())
    mine = torch.arange(rank, 6, 2)
    text = batch.text[mine]
    assert isinstance(text, TextFeatures) and text.words is not None and text.mask is not None
    longest = int(text.mask.sum(1).max())  # as a store gives them: no longer than the batch needs
    text = TextFeatures(text.sentence, text.words[:, :longest], text.mask[:, :longest])
    share = Batch(batch.video[mine], text, batch.video_ids[mine], batch.text_ids[mine])
    return {name: gradients(task(*case).double(), share) for name, case in CASES.items()}


@pytest.mark.parametrize("name", CASES)
def test_two_processes_give_the_gradients_of_one(name: str, of_two: OfTwo) -> None:
    expected = gradients(task(*CASES[name]).double(), in_double(whole_batch()))
    for found in of_two[__name__]:
        check(found[name], expected)


@pytest.mark.parametrize("size", [1, 2, 4])
@pytest.mark.parametrize("name", ["plain", "coarse", "guided", "words"])
def test_encoding_in_parts_gives_the_gradients_of_the_whole(name: str, size: int) -> None:
    whole, parts = task(name, {"mixup": 0.0}), task(name, {"encode_at_once": size})
    expected, found = gradients(whole, whole_batch()), gradients(parts, whole_batch())
    assert set(found) == set(expected)
    for parameter, gradient in expected.items():
        torch.testing.assert_close(found[parameter], gradient, atol=2e-6, rtol=1e-4)


def test_encoding_in_parts_repeats_its_dropout() -> None:
    """The second pass must see the noise of the first: the gradients of a sum are then those of the parts."""

    class Noisy(TemporalEncoder):
        def __init__(self) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(torch.ones(16))
            self.seen: list[torch.Tensor] = []

        def encode(self, frames: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
            noise = torch.rand(frames.shape)
            self.seen.append(noise)
            return frames * self.weight * noise

    model = VideoTextModel(None, Noisy(), create("similarity", "mean", width=16), logit_scale=2.0)
    ContrastiveTask(model, TrainConfig(encode_at_once=2)).backward(whole_batch())
    first, again = model.temporal.seen[:3], model.temporal.seen[3:]
    assert len(again) == 3 and all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first[0], first[1])


def test_a_live_text_tower_in_parts(tiny: OpenClip) -> None:
    """Tokens in, gradients in the tower: encoded two by two as all at once."""
    found = {}
    for size in (None, 2):
        model = create_model("tiny", similarity="mean", text_tuning="full")
        tokens = tiny.tokenize([f"a {c} circle grows" for c in ("red", "blue", "green", "white", "black", "grey")])
        batch = replace(
            whole_batch(),
            text=tokens,
            video=VideoFeatures.from_frames(torch.randn(6, 5, 128, generator=torch.Generator().manual_seed(0))),
        )
        found[size] = gradients(ContrastiveTask(model, TrainConfig(encode_at_once=size)), batch)
    assert any("backbone" in name for name in found[None]) and set(found[2]) == set(found[None])
    for name, gradient in found[None].items():
        torch.testing.assert_close(found[2][name], gradient, atol=1e-5, rtol=1e-3)


def test_mixup_needs_a_vector_of_the_video() -> None:
    with pytest.raises(DataError, match="train.mixup mixes a text with one vector"):
        task("plain", {"mixup": 0.1})


def test_backwards_turns_the_real_frames_only() -> None:
    video = whole_batch().video
    turned = backwards(video)
    for index, mask in enumerate(video.mask):
        assert torch.equal(turned.frames[index][mask], video.frames[index][mask].flip(0))
    again = backwards(turned)
    assert torch.equal(again.frames[video.mask], video.frames[video.mask]) and torch.equal(again.mask, video.mask)


def test_reversed_negatives_teach_order_and_nothing_to_the_blind() -> None:
    """A model blind to order scores both ways alike: the loss grows, by a constant it cannot change."""
    batch = whole_batch()
    blind = VideoTextModel(
        None, create("temporal", "none", width=16), create("similarity", "mean", width=16), logit_scale=2.0
    )
    reverse = TrainConfig(reversed_negatives=True)
    with_rival, without = ContrastiveTask(blind, reverse)(batch), ContrastiveTask(blind, TrainConfig())(batch)
    assert with_rival > without
    seeing = task()
    rows = seeing.model(batch.text, batch.video)
    own = seeing.model(batch.text, backwards(batch.video)).diagonal()[:, None]
    same = (batch.video_ids[:, None] == batch.video_ids) | (batch.text_ids[:, None] == batch.text_ids)
    expected = create("loss", "cross_entropy")(Pairs.of(rows, same, text_negatives=own))
    assert torch.allclose(ContrastiveTask(seeing.model, reverse)(batch), expected)
    assert not torch.allclose(rows.diagonal()[:, None], own, atol=1e-3)
