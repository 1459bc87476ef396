"""Two real processes (gloo) beside one: their gradients must be those of the joined batch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor

from videoclip.training.task import ContrastiveTask

Gradients = dict[str, Tensor]


def gradients_of(task: ContrastiveTask) -> Gradients:
    """Averaged over processes, after a backward pass."""
    task.average_gradients()
    return {n: p.grad for n, p in task.named_parameters() if p.grad is not None}


def _one_of_two(rank: int, folder: str, work: Callable[[int], Mapping[str, Gradients]]) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    torch.set_num_threads(1)
    torch.save(work(rank), f"{folder}/gradients{rank}.pt")
    dist.destroy_process_group()


def in_two(folder: Path, work: Callable[[int], Mapping[str, Gradients]]) -> list[dict[str, Gradients]]:
    """What ``work(rank)``, a function of a module, gives in each of two processes."""
    mp.start_processes(_one_of_two, (str(folder), work), nprocs=2, start_method="spawn")
    return [torch.load(folder / f"gradients{rank}.pt", weights_only=True) for rank in range(2)]


def check(found: Gradients, expected: Gradients) -> None:
    """Equal to 1e-6 of each gradient's length, or of the whole where it should be zero."""
    total = torch.cat([g.flatten() for g in expected.values()]).norm()
    assert len(expected) > 1 and total > 0
    assert set(found) == set(expected)
    for parameter, gradient in expected.items():
        difference = (found[parameter] - gradient).norm()
        assert difference <= 1e-6 * max(gradient.norm(), 1e-3 * total), parameter
