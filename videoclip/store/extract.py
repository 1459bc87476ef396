"""Filling a store: decode in isolated worker processes, encode there or on a GPU, commit as it goes.

What is committed is never done again; what failed is listed with its reason and left alone until asked to retry.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from rich.progress import Progress, track
from torch import Tensor

from videoclip.backbone import Backbone, device_of
from videoclip.data.manifest import Clip
from videoclip.errors import DataError, StoreError
from videoclip.features import VideoFeatures
from videoclip.store import FeatureStore
from videoclip.store.batches import Event, encode_batches
from videoclip.store.catalog import Failure
from videoclip.store.launch import Launch, join_launch, own_cores
from videoclip.store.produce import ENCODE_FRAMES, STAGES, Producer
from videoclip.store.push import check_target, push_shards
from videoclip.store.recipe import DESCRIPTION, Recipe, create_description, read_description
from videoclip.store.shards import ShardWriter, not_finite
from videoclip.store.sink import Sink
from videoclip.store.sources import append_changes, compare, source_notes
from videoclip.video.clip import FrameChoice, load_clip
from videoclip.video.isolation import Ended, Limits, isolated
from videoclip.video.preprocess import PixelShape, Preprocess
from videoclip.video.views import view_names

ENCODE_TEXTS = 256
WANTED, PRESENT, FAILED_BEFORE, CHANGED = range(4)


@dataclass(frozen=True)
class Extras:
    """What a store holds beside one feature a frame and one a caption.

    Attributes:
        patches: every frame's patch tokens.
        pixels: every frame at the size that the tower takes, as it is or as a JPEG picture of quality 95: for training
            inside the image tower without decoding again.
        words: every caption's words.
        crops: three square crops along the longer side of every frame, as views.
        augmentations: so many random crops and mirrorings, as views; the same for all frames of a clip.
    """

    patches: bool = False
    pixels: Literal["uint8", "jpeg"] | None = None
    words: bool = False
    crops: bool = False
    augmentations: int = 0


@dataclass(frozen=True)
class Summary:
    """What a caching run did, all processes of its launch together.

    Attributes:
        cached, failed: clips of this run.
        present, failed_before: clips of earlier runs, left alone.
        changed: clips among those of this run whose file or stretch is another one than when they were cached before.
        vanished: clips of the store whose file no longer exists.
        spent: CPU seconds of each stage in all processes; of a GPU its own seconds for ``encode``.
        seconds: that the run took.
        limit: the least seconds that its stages allow: every core, or the GPU, busy all the time; 0 on a Ray cluster,
            whose actors come and go.
    """

    cached: int
    present: int
    failed: int
    failed_before: int
    changed: int = 0
    vanished: int = 0
    spent: dict[str, float] = field(default_factory=dict, compare=False)
    seconds: float = field(default=0.0, compare=False)
    limit: float = field(default=0.0, compare=False)


def cache_features(
    clips: Sequence[Clip],
    folder: str | Path,
    backbone: Backbone,
    choice: FrameChoice,
    *,
    decoder: Literal["auto", "pyav"] = "auto",
    dtype: Literal["float16", "float32"] = "float16",
    precision: Literal["auto", "fp32", "fp16", "bf16"] = "auto",
    resize: Literal["fast", "pillow"] = "fast",
    pixel_shape: PixelShape | None = None,
    extras: Extras | None = None,
    broken: Literal["keep", "refuse"] = "keep",
    retry_failed: bool | str = False,
    workers: int | None = None,
    limits: Limits | None = None,
    batch: int = 256,
    shard_mib: int = 256,
    engine: Literal["local", "ray"] = "local",
    push_to: str | None = None,
) -> Summary:
    """Cache frame features of clips and text features of their captions; resumes where an earlier run stopped.

    All processes of an ``accelerate launch`` share the work. A calling script needs ``if __name__ == "__main__":``.

    Args:
        clips: what to cache; those that the store has of the same stretch of the same file are skipped.
        folder: the store, new or made by the same recipe.
        precision: of the image tower; ``auto`` keeps an existing store's, else fp16 on a GPU and fp32 on a CPU.
        resize, pixel_shape: see ``Preprocess``; a shape that is not given is an existing store's, else ``square``.
        extras: what else to store.
        broken: whether short and damaged files are kept, with that status, or refused.
        retry_failed: try clips again that failed before; a string, those whose stage and reason hold it.
        workers: worker processes, 0 works in this one without isolation; one per core when not given.
        limits: what one clip may cost.
        batch: frames a pass on a GPU; on a CPU each worker encodes for itself.
        shard_mib: after which a shard is closed and the next one begun.
        engine: ``ray`` does the same work on a Ray cluster.
        push_to: an fsspec address to which finished shards are copied.

    Raises:
        StoreError: the folder holds another recipe's store (with the fields that differ), or cannot be written.
        DataError: two clips have one id.
    """
    began, folder, launch = time.monotonic(), Path(folder), join_launch()
    preprocess = replace(backbone.preprocess, resize=resize, pixel_shape=pixel_shape or _pixel_shape(folder))
    recipe = _recipe(folder, backbone, preprocess, choice, decoder, dtype, precision, extras or Extras())
    plan = launch.from_first("plan", lambda: _plan(clips, folder, recipe, backbone, retry_failed, push_to))
    _cache_texts(clips, folder, recipe, backbone, launch)
    wanted = [clip for clip, state in zip(clips, plan, strict=True) if state in (WANTED, CHANGED)]
    with Sink(FeatureStore(folder), launch.rank, shard_mib << 20, push_to) as sink:
        if wanted:
            producer = Producer(recipe, preprocess, backbone, broken)
            events = _produce(producer, wanted, launch, engine, workers, limits, batch, sink.spent)
            _show(sink.take(events), len(wanted), launch)
    cores = 0 if engine == "ray" else max(1, _workers(workers, len(clips)))
    summary = _summary(launch, sink, plan, time.monotonic() - began, cores, backbone)
    if push_to and launch.rank == 0:  # now that all processes are done
        _push_whole(folder, push_to)
    return replace(summary, vanished=0 if launch.rank else len(FeatureStore(folder).vanished))


def read_clips(backbone: Backbone, paths: Sequence[str | Path], frames: int) -> VideoFeatures:
    """Decode and encode files now, without a store: frames (B, T, D), at most ``frames`` each.

    Raises:
        DecodeError: a file cannot be read.
    """
    clips = [load_clip(path, FrameChoice(frames=frames), backbone.preprocess) for path in paths]
    with torch.inference_mode():
        encoded = [
            torch.cat([backbone.encode_image(p.to(device_of(backbone))) for p in c.pixels.split(ENCODE_FRAMES)])
            for c in clips
        ]
    return VideoFeatures.pad(encoded, [clip.seconds.float() for clip in clips])


def _pixel_shape(folder: Path) -> PixelShape:
    """The shape of pixels in an existing store, else square ones."""
    if (folder / DESCRIPTION).is_file() and "pixel_shape" not in read_description(folder)[0].preprocess:
        return "stored"
    return "square"


def _recipe(
    folder: Path,
    backbone: Backbone,
    preprocess: Preprocess,
    choice: FrameChoice,
    decoder: str,
    dtype: str,
    precision: str,
    extras: Extras,
) -> Recipe:
    if precision == "auto":
        precision = "fp16" if device_of(backbone).type == "cuda" else "fp32"
        if (folder / DESCRIPTION).is_file():
            precision = read_description(folder)[0].precision
    views = view_names(extras.crops, extras.augmentations)
    tensors = {"frames": [backbone.width]}
    if extras.patches:
        with torch.inference_mode():
            blank = torch.zeros(1, 3, *backbone.preprocess.size, dtype=torch.uint8, device=device_of(backbone))
            tensors["patches"] = list(backbone.encode_patches(blank)[1].shape[1:])
    if views:
        tensors["views"] = [len(views), backbone.width]
    if extras.pixels:
        tensors |= {"jpeg": []} if extras.pixels == "jpeg" else {"pixels": [3, *preprocess.size]}
    parameters = {name: list(v) if isinstance(v, tuple) else v for name, v in asdict(preprocess).items()}
    if preprocess.pixel_shape == "stored":
        del parameters["pixel_shape"]  # the fingerprint of stores from before there was a choice
    return Recipe(
        backbone=backbone.fingerprint,
        preprocess=parameters,
        frames=choice.frames,
        fps=choice.fps,
        sampling=choice.sampling,
        decoder=decoder,
        precision=precision,
        dtype=dtype,
        tensors=tensors,
        views=views,
        words=extras.words,
    )


def _plan(
    clips: Sequence[Clip],
    folder: Path,
    recipe: Recipe,
    backbone: Backbone,
    retry_failed: bool | str,
    push_to: str | None,
) -> bytes:
    """Make the folder a store, and return the state of each clip: whether it is there, failed before, or is wanted."""
    if len({clip.id for clip in clips}) < len(clips):
        raise DataError("two of the clips have the same id; ids must be unique within a store.")
    create_description(folder, recipe, backbone.spec)
    if push_to:
        check_target(folder, push_to)
    store = FeatureStore(folder)
    again = retry_failed if isinstance(retry_failed, str) else "" if retry_failed else None
    failures = {f.id: f for f in store.failures if again is None or again not in f"{f.stage}: {f.reason}"}
    changes: list[dict[str, Any]] = []
    states = bytes(_state(clip, store, failures.get(clip.id), changes) for clip in clips)
    append_changes(folder, changes)
    return states


def _state(clip: Clip, store: FeatureStore, failure: Failure | None, changes: list[dict[str, Any]]) -> int:
    """Compare a clip with what the store has of it, and note in ``changes`` what moved or is out of date."""
    if clip.id not in store and failure is None:
        return WANTED
    now = source_notes(clip)
    if clip.id not in store:
        assert failure is not None
        version = (failure.bytes, failure.modified)
        return FAILED_BEFORE if version == (now["bytes"], now["modified"]) else WANTED

    record = store.record(clip.id)
    verdict = compare(clip, now, record.notes, store.seconds(clip.id))
    change = {"key": clip.id, "generation": record.generation}
    if verdict == "moved":
        changes.append({**change, **now})
    if verdict == "changed":
        changes.append({**change, "forgotten": True})  # at once: the new file may turn out not to be readable
    return CHANGED if verdict == "changed" else PRESENT


def _cache_texts(clips: Sequence[Clip], folder: Path, recipe: Recipe, backbone: Backbone, launch: Launch) -> None:
    """Cache this process's share of the captions."""
    captions = list(dict.fromkeys(caption for clip in clips for caption in clip.captions))[launch.rank :: launch.size]
    known = FeatureStore(folder).captions if captions else set()
    wanted = [caption for caption in captions if caption not in known]
    if not wanted:
        return
    tensors = recipe.text_tensors
    with ShardWriter(folder, "texts", tensors, recipe.dtype, launch.rank) as writer, torch.inference_mode():
        for start in track(range(0, len(wanted), ENCODE_TEXTS), "captions", disable=launch.rank > 0):
            part = wanted[start : start + ENCODE_TEXTS]
            text = backbone.encode_text(backbone.tokenize(part).to(device_of(backbone)), words=recipe.words)
            for number, caption in enumerate(part):
                rows = {"sentence": text.sentence[number : number + 1]}
                if text.words is not None and text.mask is not None:
                    rows["words"] = text.words[number][text.mask[number]]
                arrays = {name: _array(tensor).astype(recipe.dtype) for name, tensor in rows.items()}
                for name, array in arrays.items():
                    if bad := not_finite(name, array):
                        raise StoreError(f"caption {caption!r}: the encoder gave features that are not finite ({bad}).")
                writer.add(caption, arrays)
            writer.commit()


def _produce(
    producer: Producer,
    clips: Sequence[Clip],
    launch: Launch,
    engine: str,
    workers: int | None,
    limits: Limits | None,
    batch: int,
    spent: dict[str, float],
) -> Iterator[Event]:
    """Events of clips: by Ray, or by workers of this machine; on a GPU those decode and this process encodes."""
    if engine == "ray":
        from videoclip.store.ray_engine import produce_on_ray

        return produce_on_ray(producer, clips, limits, batch)
    backbone, count, claimed = producer.backbone, _workers(workers, len(clips)), launch.claim(clips)
    assert backbone is not None
    on_gpu = device_of(backbone).type != "cpu"
    job = replace(producer, backbone=None) if on_gpu else producer
    events = isolated(job, claimed, count, limits) if count else _alone(job, claimed)
    return encode_batches(events, backbone, producer.recipe, batch, spent) if on_gpu else events


def _alone(producer: Producer, clips: Iterable[Clip]) -> Iterator[Event]:
    """Work in this process, with one thread as workers have: the same features to the bit."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for clip in clips:
            began, error = time.monotonic(), ""
            try:
                for message in producer(clip):
                    yield clip, message
            except Exception as failure:  # as in a worker: one bad file must not stop thousands of others
                error = f"{type(failure).__name__}: {failure}"
            yield clip, Ended(time.monotonic() - began, error)
    finally:
        torch.set_num_threads(threads)


def _show(ended: Iterable[None], total: int, launch: Launch) -> None:
    """Run through all clips under a progress bar; how many this process will get is known only if it is alone."""
    with Progress(disable=launch.rank > 0, refresh_per_second=2) as bar:  # drawing takes time from the workers
        task = bar.add_task("clips", total=total if launch.size == 1 else None)
        for _ in ended:
            bar.advance(task)


def _summary(launch: Launch, sink: Sink, plan: bytes, seconds: float, cores: int, backbone: Backbone) -> Summary:
    """What all processes did; ``cores`` are those that this one worked with, 0 where that cannot be said."""
    told = launch.gather([sink.cached, sink.failed, dict(sink.spent), cores])
    on_gpu = device_of(backbone).type != "cpu"
    spent = {name: round(sum(part[2].get(name, 0.0) for part in told), 3) for name in (*STAGES, "write")}
    limit, cores = 0.0, sum(part[3] for part in told)
    if cores:
        by_cores = sum(spent[name] for name in STAGES if not (on_gpu and name == "encode")) / cores
        limit = max(by_cores, spent["encode"] / launch.size) if on_gpu else by_cores
        spent["waiting"] = round(max(0.0, (seconds - by_cores) * cores), 3)
    cached, failed = (sum(part[i] for part in told) for i in (0, 1))
    return Summary(
        cached,
        plan.count(PRESENT),
        failed,
        plan.count(FAILED_BEFORE),
        changed=plan.count(CHANGED),
        spent=spent,
        seconds=seconds,
        limit=limit,
    )


def _workers(wanted: int | None, clips: int) -> int:
    """Worker processes of this process: one a core, shared with the other processes of this machine."""
    if wanted is not None:
        return wanted
    return max(1, min(own_cores(), clips))


def _push_whole(folder: Path, address: str) -> None:
    """Copy everything that is not at the address yet."""
    check_target(folder, address)
    push_shards(folder, sorted(folder.glob("*.idx")), address, 0)


def _array(tensor: Tensor) -> np.ndarray:
    return tensor.cpu().numpy()
