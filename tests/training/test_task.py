"""Gradients of two real processes (gloo) equal those of one with the joined batch."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch.nn.parallel import DistributedDataParallel

from videoclip.features import TextFeatures, VideoFeatures
from videoclip.losses import symmetric_cross_entropy
from videoclip.model import VideoTextModel
from videoclip.registry import create
from videoclip.store.dataset import Batch
from videoclip.training.task import ContrastiveTask, backwards

# Each with what is awkward to gather: nothing, words of unequal length and a loss of channels, coarse frames and two
# losses, a loss of the temporal encoder that reads what the similarity made of the text.
MODELS: dict[str, tuple[str, dict[str, object], str, dict[str, object]]] = {
    "plain": ("transformer", {"layers": 1, "heads": 2}, "query_scoring", {}),
    "words": ("none", {}, "tokens", {"decorrelation": 0.1}),
    "coarse": ("difference", {"layers": 1, "heads": 2, "coarse": "difference"}, "alignment", {}),
    "guided": ("aligner", {"heads": 2, "dropout": 0.0}, "semantic", {"hidden": 16, "heads": 2, "dropout": 0.0}),
}


def task(name: str = "plain") -> ContrastiveTask:
    torch.manual_seed(0)
    temporal, temporal_options, similarity, similarity_options = MODELS[name]
    parts = (
        create("temporal", temporal, temporal_options, width=16),
        create("similarity", similarity, similarity_options, width=16),
    )
    for part in parts:
        for parameter in part.parameters():
            torch.nn.init.normal_(parameter, std=0.2)
    return ContrastiveTask(VideoTextModel(None, *parts, logit_scale=2.0))


def whole_batch() -> Batch:
    generator = torch.Generator().manual_seed(1)
    mask = torch.arange(5) < torch.tensor([5, 3, 1, 4, 2, 5])[:, None]
    video = VideoFeatures.from_frames(torch.randn(6, 5, 16, generator=generator), mask)
    sentence, words = torch.randn(6, 16, generator=generator), torch.randn(6, 7, 16, generator=generator)
    text = TextFeatures(sentence, words, torch.arange(7) < torch.tensor([7, 3, 2, 4, 5, 4])[:, None])
    return Batch(video, text, torch.tensor([0, 1, 2, 0, 3, 4]))


def gradients(module: torch.nn.Module, batch: Batch) -> dict[str, torch.Tensor]:
    module(batch).backward()
    return {n.removeprefix("module."): p.grad for n, p in module.named_parameters() if p.grad is not None}


def one_of_two(rank: int, folder: str, name: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    torch.set_num_threads(1)
    batch = whole_batch()
    mine = torch.arange(rank, 6, 2)
    text = batch.text[mine]
    assert isinstance(text, TextFeatures) and text.words is not None and text.mask is not None
    longest = int(text.mask.sum(1).max())  # as a store gives them: no longer than the batch needs
    text = TextFeatures(text.sentence, text.words[:, :longest], text.mask[:, :longest])
    share = Batch(batch.video[mine], text, batch.video_ids[mine])
    found = gradients(DistributedDataParallel(task(name)), share)
    if rank == 0:
        torch.save(found, f"{folder}/gradients.pt")
    dist.destroy_process_group()


@pytest.mark.parametrize("name", MODELS)
def test_two_processes_give_the_gradients_of_one(name: str, tmp_path: Path) -> None:
    expected = gradients(task(name), whole_batch())
    mp.start_processes(one_of_two, (str(tmp_path), name), nprocs=2, start_method="spawn")
    found = torch.load(tmp_path / "gradients.pt", weights_only=True)
    assert set(found) == set(expected) and len(expected) > 5
    for parameter, gradient in expected.items():
        torch.testing.assert_close(
            found[parameter], gradient, atol=1e-6, rtol=1e-4, msg=lambda m, n=parameter: f"{n}: {m}"
        )


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
    with_rival, without = ContrastiveTask(blind, True)(batch), ContrastiveTask(blind)(batch)
    assert with_rival > without
    seeing = task()
    rows = seeing.model(batch.text, batch.video)
    own = seeing.model(batch.text, backwards(batch.video)).diagonal()[:, None]
    expected = symmetric_cross_entropy(rows, batch.video_ids, own)
    assert torch.allclose(ContrastiveTask(seeing.model, True)(batch), expected)
    assert not torch.allclose(rows.diagonal()[:, None], own, atol=1e-3)
