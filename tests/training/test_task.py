"""Gradients of two real processes (gloo) equal those of one with the joined batch."""

from __future__ import annotations

from pathlib import Path

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


def task() -> ContrastiveTask:
    torch.manual_seed(0)
    temporal = create("temporal", "transformer", {"layers": 1, "heads": 2}, width=16)
    for parameter in temporal.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return ContrastiveTask(
        VideoTextModel(None, temporal, create("similarity", "query_scoring", width=16), logit_scale=2.0)
    )


def whole_batch() -> Batch:
    generator = torch.Generator().manual_seed(1)
    mask = torch.arange(5) < torch.tensor([5, 3, 1, 4, 2, 5])[:, None]
    video = VideoFeatures.from_frames(torch.randn(6, 5, 16, generator=generator), mask)
    return Batch(video, TextFeatures(torch.randn(6, 16, generator=generator)), torch.tensor([0, 1, 2, 0, 3, 4]))


def gradients(module: torch.nn.Module, batch: Batch) -> dict[str, torch.Tensor]:
    module(batch).backward()
    return {n.removeprefix("module."): p.grad for n, p in module.named_parameters() if p.grad is not None}


def one_of_two(rank: int, folder: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    torch.set_num_threads(1)
    batch = whole_batch()
    mine = torch.arange(rank, 6, 2)
    share = Batch(batch.video[mine], batch.text[mine], batch.video_ids[mine])  # type: ignore[index]
    found = gradients(DistributedDataParallel(task()), share)
    if rank == 0:
        torch.save(found, f"{folder}/gradients.pt")
    dist.destroy_process_group()


def test_two_processes_give_the_gradients_of_one(tmp_path: Path) -> None:
    expected = gradients(task(), whole_batch())
    mp.start_processes(one_of_two, (str(tmp_path),), nprocs=2, start_method="spawn")
    found = torch.load(tmp_path / "gradients.pt", weights_only=True)
    assert set(found) == set(expected) and len(expected) > 5
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, atol=1e-6, rtol=1e-4, msg=lambda m, n=name: f"{n}: {m}")


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
