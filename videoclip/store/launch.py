"""The processes of one launch (``accelerate launch``, ``torchrun``) that fill a store together, on any machines.

Clips are claimed one by one from a counter that all share, so a slow process never makes another wait, and what a dead
one had claimed is simply not in the store when the command is run again.
"""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

Item = TypeVar("Item")
WEEK = timedelta(days=7)  # the first process waits for the last one's last clip
_runs = itertools.count()


@dataclass(frozen=True)
class Launch:
    """This process among those of its launch.

    Attributes:
        rank: its number, 0 for the first.
        size: how many there are.
        shared: a key-value store that all of them reach; None for a process alone.
    """

    rank: int = 0
    size: int = 1
    shared: Any = None

    def from_first(self, name: str, make: Callable[[], bytes]) -> bytes:
        """What ``make`` returns in the first process, in every process."""
        if self.rank == 0:
            value = make()
            if self.shared is not None:
                self.shared.set(name, value)
            return value
        self.shared.wait([name], WEEK)
        return bytes(self.shared.get(name))

    def claim(self, items: Sequence[Item]) -> Iterator[Item]:
        """Items, equal in all processes, each given to one of them."""
        if self.shared is None:
            yield from items
            return
        while (number := self.shared.add("claimed", 1) - 1) < len(items):
            yield items[number]

    def gather(self, value: Any) -> list[Any]:
        """Every process's value, JSON, in the first process; in others their own."""
        if self.shared is None or self.rank:
            if self.shared is not None:
                self.shared.set(f"done-{self.rank}", json.dumps(value))
            return [value]
        names = [f"done-{rank}" for rank in range(1, self.size)]
        self.shared.wait(names, WEEK)
        return [value, *(json.loads(self.shared.get(name)) for name in names)]


def join_launch() -> Launch:
    """This process among those of its launch, alone where there is no launch; also picks this process's own GPU."""
    if int(os.environ.get("WORLD_SIZE", "1")) < 2:
        return Launch()
    import torch
    from accelerate import PartialState
    from torch.distributed import PrefixStore, TCPStore  # type: ignore[attr-defined]

    state = PartialState(cpu=not torch.cuda.is_available())
    address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    server = TCPStore(address, port, is_master=False, wait_for_workers=False)
    # A launcher keeps its key-value store when it starts its processes again, and a program may cache twice.
    run = f"videoclip-{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}-{next(_runs)}"
    return Launch(state.process_index, state.num_processes, PrefixStore(run, server))


def own_cores() -> int:
    """This process's share of the machine's cores, at least one."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, cores // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))
