"""Time random batches from a store against a bare memory map of the same rows.

``python tools/bench_read.py`` writes 50,000 clips of 12 frames of 512 half-precision numbers once, then reads random
batches of 128 through a torch ``DataLoader`` with 0 and 2 workers, from the maps and from memory, in turn with
``numpy.memmap`` and nothing else. Clips a second, and by how much resident memory grew while reading.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from torch.utils.data import BatchSampler, DataLoader, RandomSampler

from videoclip.cli.arguments import count
from videoclip.store import FeatureStore
from videoclip.store.dataset import StoredClips
from videoclip.store.recipe import Recipe, create_description
from videoclip.store.shards import ShardWriter

FRAMES, WIDTH, BATCH = 12, 512, 128


def write(folder: Path, clips: int) -> None:
    """Random features; the same in a plain .npy file."""
    recipe = Recipe("random", {}, FRAMES, None, "exact", "auto", "fp32", "float16", {"frames": [WIDTH]})
    create_description(folder / "store", recipe, {"name": "random", "pretrained": None})
    rng = np.random.default_rng(0)
    seconds = [float(second) for second in range(FRAMES)]
    bare = np.lib.format.open_memmap(folder / "bare.npy", "w+", np.float16, (clips, FRAMES, WIDTH))
    with ShardWriter(folder / "store", "clips", recipe.tensors, "float16") as writer:
        for number in range(clips):
            rows = rng.standard_normal((FRAMES, WIDTH), np.float32).astype(np.float16)
            bare[number] = rows
            writer.add(f"clip{number:06d}", {"frames": rows}, seconds=seconds, status="ok", decoder="none")
    bare.flush()


def bare_batches(folder: Path, clips: int, batches: int) -> Iterator[int]:
    """What nothing can beat by much: one fancy index of a memory map, as float32."""
    rows = np.load(folder / "bare.npy", mmap_mode="r")
    sampler = BatchSampler(RandomSampler(range(clips)), BATCH, drop_last=True)
    for _, numbers in zip(range(batches), sampler, strict=False):
        yield len(torch.from_numpy(rows[numbers]).float())


def store_batches(folder: Path, batches: int, workers: int, in_memory: bool) -> Iterator[int]:
    """As a training loop would read."""
    data = StoredClips(FeatureStore(folder / "store", in_memory))
    as_read: Any = StoredClips.collate
    loader = DataLoader(data, BATCH, shuffle=True, num_workers=workers, collate_fn=as_read, drop_last=True)
    for _, video in zip(range(batches), loader, strict=False):
        yield len(video)


def speed(make: Callable[[], Iterator[int]]) -> tuple[float, float]:
    """Clips a second after the first two batches, and MiB of growth after the first tenth."""
    process, sizes, held = psutil.Process(), [], []
    began = 0.0
    for number, size in enumerate(make()):
        if number == 2:
            began = time.perf_counter()
        sizes.append(size)
        if number % 20 == 0:
            held.append(process.memory_info().rss / 2**20)
    seconds = time.perf_counter() - began
    return sum(sizes[3:]) / seconds, max(held) - held[len(held) // 10]


def main() -> None:
    """Write once, read in turn, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("bench_read"))
    parser.add_argument("--clips", type=count, default=50_000)
    parser.add_argument("--rounds", type=count, default=3)
    args = parser.parse_args()
    if not (args.folder / "bare.npy").exists():
        args.folder.mkdir(parents=True, exist_ok=True)
        write(args.folder, args.clips)
    batches = args.clips // BATCH
    ways: dict[str, Callable[[], Iterator[int]]] = {
        "bare memory map": lambda: bare_batches(args.folder, args.clips, batches),
        "store, 0 workers": lambda: store_batches(args.folder, batches, 0, False),
        "store, 2 workers": lambda: store_batches(args.folder, batches, 2, False),
        "store in memory, 0 workers": lambda: store_batches(args.folder, batches, 0, True),
    }
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    for _ in range(args.rounds):
        for name, make in ways.items():
            found[name].append(speed(make))
    began = time.perf_counter()
    FeatureStore(args.folder / "store")
    print(f"opening {args.clips} clips: {time.perf_counter() - began:.2f} s")
    print("| way | clips a second, median | share of the bare map | MiB grown |")
    print("| --- | --: | --: | --: |")
    bare = float(np.median([clips for clips, _ in found["bare memory map"]]))
    for name, runs in found.items():
        clips = float(np.median([r[0] for r in runs]))
        print(f"| {name} | {clips:,.0f} | {clips / bare:.2f} | {np.median([r[1] for r in runs]):.0f} |")


if __name__ == "__main__":
    main()
