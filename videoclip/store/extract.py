"""Filling a store: decode in worker processes, encode here, commit as it goes.

What is committed is never done again; what failed is listed with its reason and left alone until asked to retry.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import torch
from rich.progress import track
from torch import Tensor

from videoclip.backbone import Backbone
from videoclip.data.manifest import Clip
from videoclip.errors import DecodeError, StoreError
from videoclip.features import VideoFeatures
from videoclip.store import FORMAT, Failure, FeatureStore, Recipe
from videoclip.store.shards import ShardWriter
from videoclip.video.clip import ClipPixels, FrameChoice, load_clip
from videoclip.video.decode import Decoder
from videoclip.video.preprocess import Preprocess

ENCODE_FRAMES = 16  # frames a pass through the image tower: the fastest on a CPU
ENCODE_TEXTS = 256
COMMIT_SECONDS = 2.0  # the most work that a kill can cost
LoadJob = Callable[[Clip], ClipPixels | Failure]


@dataclass(frozen=True)
class Summary:
    """What a caching run did: clips cached now, present before, failed now, failed before and left alone."""

    cached: int
    present: int
    failed: int
    failed_before: int


def cache_features(
    clips: Sequence[Clip],
    folder: str | Path,
    backbone: Backbone,
    choice: FrameChoice,
    *,
    decoder: Literal["auto", "pyav"] = "auto",
    dtype: Literal["float16", "float32"] = "float16",
    workers: int | None = None,
    retry_failed: bool = False,
) -> Summary:
    """Cache frame features of clips and text features of their captions; resumes where an earlier run stopped.

    Args:
        clips: what to cache; ids already in the store are skipped.
        folder: the store, new or made by the same recipe.
        backbone: whose features.
        choice: which frames.
        decoder: ``auto`` or ``pyav``.
        dtype: of the stored features.
        workers: decoding processes, 0 decodes in this one; one per core when not given.
        retry_failed: try clips again that failed in an earlier run.

    Raises:
        StoreError: the folder holds a store of another recipe; the fields that differ are listed.
    """
    folder = Path(folder)
    recipe = Recipe(backbone.fingerprint, choice.frames, choice.fps, decoder, dtype, backbone.width)
    store = _open_or_create(folder, recipe, backbone)
    failed = set() if retry_failed else {failure.id for failure in store.failures}
    wanted = [clip for clip in clips if clip.id not in store and clip.id not in failed]
    _cache_texts(list(dict.fromkeys(caption for clip in clips for caption in clip.captions)), store, backbone)
    load = partial(_load, choice=choice, preprocess=backbone.preprocess, decoder=decoder)
    now_failed = _cache_clips(wanted, folder, backbone, load, recipe, workers) if wanted else 0
    present = sum(clip.id in store for clip in clips)
    return Summary(len(wanted) - now_failed, present, now_failed, len(clips) - len(wanted) - present)


def read_clips(backbone: Backbone, paths: Sequence[str | Path], frames: int) -> VideoFeatures:
    """Decode and encode files now, without a store: frames (B, T, D), at most ``frames`` each.

    Raises:
        DecodeError: a file cannot be read.
    """
    clips = [load_clip(path, FrameChoice(frames=frames), backbone.preprocess) for path in paths]
    encoded = [_encode(backbone, clip.pixels) for clip in clips]
    return VideoFeatures.pad(encoded, [clip.seconds.float() for clip in clips])


def _open_or_create(folder: Path, recipe: Recipe, backbone: Backbone) -> FeatureStore:
    description = folder / "store.json"
    if not description.exists():
        folder.mkdir(parents=True, exist_ok=True)
        temporary = folder / "store.json.tmp"
        temporary.unlink(missing_ok=True)
        if any(folder.iterdir()):
            raise StoreError(f"{folder} is neither empty nor a feature store; choose another folder.")
        content = {"format": FORMAT, "backbone": backbone.spec, "recipe": asdict(recipe)}
        temporary.write_text(json.dumps(content, indent=2) + "\n")
        temporary.replace(description)
    store = FeatureStore(folder)
    different = store.recipe.differences(recipe)
    if different:
        raise StoreError(
            f"{folder} was made by another recipe (there / now: {'; '.join(different)}); "
            "choose another folder or the same recipe."
        )
    return store


def _cache_texts(captions: Sequence[str], store: FeatureStore, backbone: Backbone) -> None:
    known = store.captions
    wanted = [caption for caption in captions if caption not in known]
    if not wanted:
        return
    with (
        ShardWriter(store.folder, "texts-0000-00000", backbone.width, store.recipe.dtype) as writer,
        torch.inference_mode(),
    ):
        for start in track(range(0, len(wanted), ENCODE_TEXTS), "captions"):
            part = wanted[start : start + ENCODE_TEXTS]
            tokens = backbone.tokenize(part).to(_device(backbone))
            for caption, row in zip(part, backbone.encode_text(tokens).sentence.cpu().numpy(), strict=True):
                writer.add(caption, row[None])
            writer.commit()


def _cache_clips(
    clips: Sequence[Clip],
    folder: Path,
    backbone: Backbone,
    load: LoadJob,
    recipe: Recipe,
    workers: int | None,
) -> int:
    """Cache clips; how many failed."""
    failures = 0
    committed = time.monotonic()
    with (
        ShardWriter(folder, "clips-0000-00000", backbone.width, recipe.dtype) as writer,
        (folder / "failures.jsonl").open("a") as failed,
    ):
        loaded = _in_workers(load, clips, os.cpu_count() or 1 if workers is None else workers)
        for clip, result in track(loaded, "clips", total=len(clips)):
            if isinstance(result, Failure):
                failures += 1
                line = json.dumps(asdict(result), ensure_ascii=False)
                failed.write(f"\n{line}\n")  # on a line of its own, whatever a kill left before
                failed.flush()
                continue
            rows = _encode(backbone, result.pixels).cpu().numpy()
            seconds = [round(float(s), 6) for s in result.seconds]
            writer.add(clip.id, rows, seconds=seconds, decoder=result.decoder, damaged=result.damaged)
            if time.monotonic() - committed > COMMIT_SECONDS:
                writer.commit()
                committed = time.monotonic()
    return failures


def _load(clip: Clip, choice: FrameChoice, preprocess: Preprocess, decoder: Decoder) -> ClipPixels | Failure:
    """What a worker does; every error becomes a failure with its reason."""
    began = time.monotonic()
    try:
        return load_clip(clip.path, choice, preprocess, clip.start, clip.end, decoder)
    except Exception as error:  # one bad file, whatever is wrong with it, must not stop thousands of others
        stage = error.stage if isinstance(error, DecodeError) else "decode"
        reason = str(error) if isinstance(error, DecodeError) else f"{clip.path}: {type(error).__name__}: {error}"
        return Failure(clip.id, str(clip.path), stage, reason, round(time.monotonic() - began, 3))


def _in_workers(load: LoadJob, clips: Sequence[Clip], workers: int) -> Iterator[tuple[Clip, ClipPixels | Failure]]:
    """Load clips in processes, a few ahead of the caller; results come in the clips' order."""
    if workers == 0 or len(clips) < 2:
        yield from ((clip, load(clip)) for clip in clips)
        return
    waiting = deque(clips)
    while waiting:
        running: deque[tuple[Clip, Future[ClipPixels | Failure]]] = deque()
        with _pool(workers) as pool:
            try:
                while waiting or running:
                    while waiting and len(running) < 3 * workers:
                        running.append((waiting[0], pool.submit(load, waiting[0])))
                        waiting.popleft()
                    yield running[0][0], running[0][1].result()
                    running.popleft()
            except BrokenProcessPool:
                suspects = [clip for clip, _ in running]
        if running:  # a decoder took its process down: each clip that was under way gets a process to itself
            yield from ((clip, _load_alone(load, clip)) for clip in suspects)


def _load_alone(load: LoadJob, clip: Clip) -> ClipPixels | Failure:
    began = time.monotonic()
    with _pool(1) as pool:
        try:
            return pool.submit(load, clip).result()
        except BrokenProcessPool:
            reason = f"{clip.path}: the decoder took its whole process down."
            return Failure(clip.id, str(clip.path), "decode", reason, round(time.monotonic() - began, 3))


def _pool(workers: int) -> ProcessPoolExecutor:
    context = multiprocessing.get_context("forkserver" if os.name == "posix" else "spawn")
    if os.name == "posix":
        context.set_forkserver_preload(["videoclip.video.clip"])  # torch is imported once, not once a worker
    return ProcessPoolExecutor(workers, context, initializer=torch.set_num_threads, initargs=(1,))


def _device(backbone: Backbone) -> torch.device:
    return next(backbone.image_tower.parameters()).device


@torch.inference_mode()
def _encode(backbone: Backbone, pixels: Tensor) -> Tensor:
    """(T, 3, S, S) uint8 -> (T, D)."""
    device = _device(backbone)
    return torch.cat([backbone.encode_image(part.to(device)) for part in pixels.split(ENCODE_FRAMES)])
