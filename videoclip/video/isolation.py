"""Work that may hang, crash or eat memory, done by child processes that can be lost.

The kernel enforces the limits: an alarm ends a child that gives no sign of life, an address-space limit makes
allocations fail. Both hold even where native code keeps the interpreter lock, and both cost the item in work only.
On Windows children are isolated but not limited.
"""

from __future__ import annotations

import contextlib
import itertools
import multiprocessing
import os
import signal
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from multiprocessing import forkserver
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, Generic, TypeVar

from videoclip.errors import writing
from videoclip.scratch import scratch_folder

Item = TypeVar("Item")
Job = Callable[[Item], Iterable[Any]]

METHOD = "forkserver" if os.name == "posix" else "spawn"  # never fork: a parent has threads
PRELOAD = ("videoclip.store.produce", "videoclip.backbone.openclip")  # imported once, not once a child
AHEAD = 2  # items a child holds, so that it need not wait for the next


@dataclass(frozen=True)
class Limits:
    """What one item may cost.

    Attributes:
        seconds: without a message from the job; a long video that goes on giving frames is never late.
        memory_mib: that a child may allocate beyond what it holds when it starts.
        items: after which a child is replaced, so that leaks stay small.
    """

    seconds: float = 300.0
    memory_mib: int = 3072
    items: int = 1000


@dataclass(frozen=True)
class Ended:
    """The last message of every item: seconds it took, and why it was lost, empty if the job finished."""

    seconds: float
    error: str = ""


def prepare() -> None:
    """Start the process that children are forked from: it imports what they need while the caller does other work.

    Calling it before anything heavy is imported is worth seconds; ``isolated`` does it otherwise.
    """
    if METHOD == "forkserver":
        # Sockets of the server lie in this folder; Python's own choice stays behind when the process is killed.
        config: Any = multiprocessing.process.current_process()._config  # type: ignore[attr-defined]
        config.setdefault("tempdir", str(scratch_folder()))
        multiprocessing.get_context(METHOD).set_forkserver_preload(list(PRELOAD))
        forkserver.ensure_running()


def isolated(
    job: Job[Item], items: Iterable[Item], workers: int, limits: Limits | None = None
) -> Iterator[tuple[Item, Any]]:
    """Run a job on many items in child processes.

    Args:
        job: picklable; called with an item in a child, yields picklable messages. What it raises ends the item.
        items: taken one by one as children become free.
        workers: children at a time.
        limits: of one item.

    Yields:
        (item, message) as messages arrive, those of one item in order; the last one is ``Ended``.
    """
    prepare()
    limits = limits or Limits()
    source, again = iter(items), deque[Item]()
    with _on_file(job) as file:
        children: list[_Child[Item]] = [_Child(file, limits) for _ in range(workers)]
        try:
            while True:
                for child in children:
                    child.feed(source, again)
                busy = {child.connection: child for child in children if child.assigned}
                if not busy:
                    return
                for connection in wait(list(busy)):
                    item, message, lost = busy[connection].receive()
                    again.extendleft(reversed(lost))
                    if message is not None:
                        yield item, message
        finally:
            for child in children:
                child.kill()


@contextlib.contextmanager
def _on_file(job: Job[Any]) -> Iterator[str]:
    """A file that children load the job from: they map its tensors, so that all share one copy of the weights.

    On Linux it has no name, and is gone with this process however that ends.
    """
    import torch

    with tempfile.TemporaryDirectory(dir=scratch_folder()) as folder:
        with writing(Path(folder)):
            torch.save(job, f"{folder}/job")  # by its name: twice as fast as through a Python file
        if sys.platform != "linux":
            yield f"{folder}/job"
            return
        held = open(f"{folder}/job", "rb")  # noqa: SIM115 - closed below
    try:
        yield f"/proc/{os.getpid()}/fd/{held.fileno()}"
    finally:
        held.close()


class _Child(Generic[Item]):
    """The parent's end of one child process, started when it gets its first item."""

    def __init__(self, job: str, limits: Limits) -> None:
        self._job, self._limits = job, limits
        self._process: Any = None
        self.connection: Any = None
        self.assigned: deque[Item] = deque()
        self._fed, self._began, self._at_work = 0, 0.0, False

    def feed(self, source: Iterator[Item], again: deque[Item]) -> None:
        """Give the child work until it is a little ahead; those in ``again`` come first."""
        while len(self.assigned) < AHEAD and self._fed < self._limits.items:
            following = list(itertools.islice(source, 1)) if not again else [again.popleft()]
            if not following:
                return
            if self.connection is None:
                self._start()
            if not self.assigned:
                self._began = time.monotonic()
            self.assigned.append(following[0])
            self._fed += 1
            with contextlib.suppress(OSError):  # a child that has just died is noticed when its messages end
                self.connection.send(following[0])

    def receive(self) -> tuple[Item, Any, list[Item]]:
        """The next message, None if it is none of the job's, and its item; of a dead child the items not begun, too."""
        try:
            message = self.connection.recv()
        except (EOFError, OSError):
            return self._died()
        item = self.assigned[0]
        self._at_work = not isinstance(message, Ended)
        if isinstance(message, Ended):
            self.assigned.popleft()
            self._began = time.monotonic()
            if not self.assigned and self._fed >= self._limits.items:
                self.kill()
        return item, message, []

    def _died(self) -> tuple[Item, Ended | None, list[Item]]:
        """Who is to blame: the item at work, or that which a new child never lived to begin."""
        self._process.join()
        item, *lost = self.assigned
        ended = Ended(time.monotonic() - self._began, _cause(self._process.exitcode, self._limits))
        innocent = not self._at_work and self._fed > len(self.assigned)
        self.kill()
        return (item, None, [item, *lost]) if innocent else (item, ended, lost)

    def _start(self) -> None:
        context: Any = multiprocessing.get_context(METHOD)
        mine, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, self._job, self._limits), daemon=True)
        self._process.start()
        theirs.close()
        self.connection = mine

    def kill(self) -> None:
        """End the child; the next ``feed`` starts another."""
        if self.connection is None:
            return
        self.connection.close()
        self._process.kill()
        self._process.join()
        self.connection, self._fed, self._at_work = None, 0, False
        self.assigned.clear()


def _cause(exitcode: int, limits: Limits) -> str:
    if exitcode >= 0:
        return f"its process ended by itself (exit status {exitcode})"
    if exitcode == -getattr(signal, "SIGALRM", 0):
        return f"no frame came for {limits.seconds:g} seconds"
    name = signal.Signals(-exitcode).name
    hint = "; was memory short?" if name == "SIGKILL" else ""
    return f"its process was ended by {name}{hint}"


def _serve(connection: Connection[Any, Any], file: str, limits: Limits) -> None:
    """A child's life: take an item, send what the job yields, until the parent hangs up."""
    import torch

    torch.set_num_threads(1)
    job: Job[Any] = torch.load(file, mmap=True, weights_only=False)  # written by the parent a moment ago
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent, which ends its children
    if hasattr(signal, "SIGALRM"):
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
    _limit_memory(limits.memory_mib)
    with contextlib.suppress(EOFError, ConnectionError):  # the parent is gone
        while True:
            _work(connection, job, connection.recv(), limits)


def _work(connection: Connection[Any, Any], job: Job[Any], item: Any, limits: Limits) -> None:
    began, error = time.monotonic(), ""
    connection.send(None)  # this item is at work now, and to blame for what happens
    try:
        _alarm(limits.seconds)
        for message in job(item):
            _alarm(0)  # waiting for a busy parent costs no time of the item
            connection.send(message)
            _alarm(limits.seconds)
    except ConnectionError:
        raise
    except MemoryError:
        error = f"more than {limits.memory_mib} MiB of memory were asked for"
    except Exception as failure:  # whatever is wrong with one item must not stop thousands of others
        error = f"{type(failure).__name__}: {failure}"
    _alarm(0)
    connection.send(Ended(time.monotonic() - began, error))


def _alarm(seconds: float) -> None:
    """The kernel ends this process after so many seconds, whatever it is doing then; 0 takes that back."""
    if hasattr(signal, "SIGALRM"):
        signal.setitimer(signal.ITIMER_REAL, seconds)


def _limit_memory(mib: int) -> None:
    if sys.platform != "linux":
        return
    import resource

    with open("/proc/self/statm") as file:
        held = int(file.read().split()[0]) * resource.getpagesize()
    _, most = resource.getrlimit(resource.RLIMIT_AS)
    wanted = held + (mib << 20)
    resource.setrlimit(resource.RLIMIT_AS, (wanted if most == resource.RLIM_INFINITY else min(wanted, most), most))
