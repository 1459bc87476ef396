"""What the processes of a launch tell each other. One process alone needs nothing of it and may call all of it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch
import torch.distributed as dist
from accelerate import PartialState
from torch import Tensor, nn

from videoclip.features import TextFeatures


def join_launch() -> tuple[torch.device, bool]:
    """Join the processes of an ``accelerate`` or ``torchrun`` launch, if this is one.

    Returns:
        This process's device, and whether it is the main one.
    """
    state = PartialState(cpu=not torch.cuda.is_available())
    return state.device, state.is_main_process


def leave_launch() -> None:
    """Wait for all processes and part: one that ends while others still talk would break them off."""
    if dist.is_initialized():
        dist.barrier()
        dist.destroy_process_group()


@contextmanager
def main_first() -> Iterator[None]:
    """The main process goes through the block before all others do."""
    number, processes = place()
    if processes > 1 and number > 0:
        dist.barrier()
    yield
    if processes > 1 and number == 0:
        dist.barrier()


def place() -> tuple[int, int]:
    """This process's number and how many there are."""
    return (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)


def gather(part: Tensor) -> Tensor:
    """Join equal-shaped tensors of all processes along the first axis, in order of rank, with gradients.

    A gradient that flows back is the sum of what all processes found for it.
    """
    return part if place()[1] == 1 else _Gathered.apply(part)


class _Gathered(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, part: Tensor) -> Tensor:
        whole = [torch.empty_like(part) for _ in range(place()[1])]
        dist.all_gather(whole, part.contiguous())
        return torch.cat(whole)

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> Tensor:
        number, processes = place()
        return join(gradient.clone(), "sum").chunk(processes)[number]


def gather_text(text: TextFeatures) -> TextFeatures:
    """Join the texts of all processes; words are padded to the longest of them all."""
    if text.words is None or text.mask is None:
        return TextFeatures(gather(text.sentence))
    longest = join(torch.tensor([text.words.shape[1]], device=text.words.device), "max")
    text = text.padded(int(longest))
    assert text.words is not None and text.mask is not None
    return TextFeatures(gather(text.sentence), gather(text.words), gather(text.mask))


def gather_parts(parts: dict[int, Any]) -> list[Any]:
    """Numbered parts, each made by one of the processes, in order of their numbers."""
    processes = place()[1]
    everybody: list[Any] = [parts]
    if processes > 1:
        everybody = [None] * processes
        dist.all_gather_object(everybody, parts)
    numbers = sorted(number for some in everybody for number in some)
    assert numbers == list(range(len(numbers))), f"parts were made twice or not at all: {numbers}"
    found = {number: part for some in everybody for number, part in some.items()}
    return [found[number] for number in numbers]


def join(part: Tensor, how: Literal["sum", "max"]) -> Tensor:
    """Sum or maximum of a tensor over all processes."""
    if place()[1] > 1:
        part = part.contiguous()
        dist.all_reduce(part, dist.ReduceOp.SUM if how == "sum" else dist.ReduceOp.MAX)
    return part


def start_alike(module: nn.Module) -> None:
    """Give every process the first one's trained values."""
    if place()[1] > 1:
        for parameter in module.parameters():
            if parameter.requires_grad:
                dist.broadcast(parameter.data, 0)


def average_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Replace gradients by their mean over all processes.

    In place of DistributedDataParallel, which expects one backward pass that reaches every parameter: with parts that
    are encoded twice there are several, and some modules train parameters that some losses never read.
    """
    processes = place()[1]
    if processes == 1:
        return
    found = [p.grad for p in parameters if p.grad is not None]
    for dtype in {g.dtype for g in found}:
        some = [g for g in found if g.dtype == dtype]
        flat = join(torch.cat([g.flatten() for g in some]), "sum") / processes
        for gradient, mean in zip(some, flat.split([g.numel() for g in some]), strict=True):
            gradient.copy_(mean.view_as(gradient))
