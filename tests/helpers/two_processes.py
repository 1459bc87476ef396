"""Two real processes (gloo) next to one: what they compute together must be what one computes alone."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor

from videoclip.training.task import ContrastiveTask

Gradients = dict[str, Tensor]
Work = Callable[[int], Mapping[str, Gradients]]
OfTwo = dict[str, list[dict[str, Gradients]]]


def gradients_of(task: ContrastiveTask) -> Gradients:
    """Average gradients over processes, after a backward pass."""
    task.average_gradients()
    return {n: p.grad for n, p in task.named_parameters() if p.grad is not None}


def _one_of_two(rank: int, folder: str, works: Mapping[str, Work]) -> None:
    # Accelerate joins the group that is there when it finds what a launcher would have set.
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE="2", MASTER_ADDR="localhost", MASTER_PORT="0")
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    torch.set_num_threads(1)
    torch.save({name: work(rank) for name, work in works.items()}, f"{folder}/found{rank}.pt")
    dist.destroy_process_group()


def in_two(folder: Path, works: Mapping[str, Work]) -> OfTwo:
    """Return by its name what each ``work(rank)``, a function of a module, gives in each of the same two processes.

    Starting two processes takes longer than most works, hence all works at once.
    """
    mp.start_processes(_one_of_two, (str(folder), dict(works)), nprocs=2, start_method="spawn")
    found = [torch.load(folder / f"found{rank}.pt", weights_only=True) for rank in range(2)]
    return {name: [each[name] for each in found] for name in works}


def check(found: Gradients, expected: Gradients) -> None:
    """Compare to 1e-6 of each gradient's length, or of the whole where it should be zero."""
    total = torch.cat([g.flatten() for g in expected.values()]).norm()
    assert len(expected) > 1
    assert total > 0
    assert set(found) == set(expected)
    for parameter, gradient in expected.items():
        difference = (found[parameter] - gradient).norm()
        assert difference <= 1e-6 * max(gradient.norm(), 1e-3 * total), parameter
