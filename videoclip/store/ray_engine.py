"""The caching pipeline on Ray Data, for clusters: decode actors and encode actors, scaled apart; the caller writes.

Ray runs lost blocks again, on whatever nodes are left. Decode actors keep decoders in isolated processes, as the local
engine does, so that a bad video costs itself and no actor. Ray's usage reporting is switched off.
"""

from __future__ import annotations

import logging
import os
import pickle
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from videoclip.backbone import Backbone, device_of
from videoclip.data.manifest import Clip
from videoclip.errors import VideoclipError
from videoclip.store.batches import Event
from videoclip.store.produce import Chunk, Done, Producer, encode
from videoclip.store.recipe import Recipe
from videoclip.video.isolation import Ended, Limits, isolated

CLIPS_A_TASK = 8
Columns = dict[str, np.ndarray]


def produce_on_ray(producer: Producer, clips: Sequence[Clip], limits: Limits | None, batch: int) -> Iterator[Event]:
    """Events of clips, made on the Ray cluster of ``RAY_ADDRESS``, of this program, or a local one.

    Args:
        producer: with its backbone.
        clips: to decode; their paths must be readable on every node.
        limits: of one clip.
        batch: frames a pass through the image tower.

    Raises:
        VideoclipError: Ray is not installed.
    """
    ray = _start()
    backbone = producer.backbone
    assert backbone is not None
    on_gpu = device_of(backbone).type == "cuda"
    decoding = replace(producer, backbone=None)
    cores = int(ray.cluster_resources().get("CPU", 1))
    encoders = max(1, int(ray.cluster_resources().get("GPU", 0)) if on_gpu else cores // 2)
    numbers = [{"number": number} for number in range(len(clips))]
    rows = (
        ray.data.from_items(numbers, override_num_blocks=-(-len(clips) // CLIPS_A_TASK))
        .map_batches(
            _Decode,
            fn_constructor_args=(decoding, limits, ray.put(list(clips))),
            batch_size=CLIPS_A_TASK,
            compute=ray.data.ActorPoolStrategy(min_size=1, max_size=max(1, cores - (0 if on_gpu else encoders))),
            num_cpus=1,
        )
        .map_batches(
            _Encode,
            fn_constructor_args=(ray.put(backbone), producer.recipe, "cuda" if on_gpu else "cpu"),
            batch_size=batch,
            compute=ray.data.ActorPoolStrategy(min_size=1, max_size=encoders),
            num_cpus=0 if on_gpu or cores < 2 else 1,
            num_gpus=1 if on_gpu else 0,
        )
        .iter_rows()
    )
    yield from _assemble(rows, clips, list(producer.recipe.tensors))


class _Decode:
    """Clips by number -> one row a frame with its pixels, and one row a clip with its last message."""

    def __init__(self, producer: Producer, limits: Limits | None, clips: Any) -> None:
        import ray

        shape = (1 + len(producer.recipe.views), 3, *producer.preprocess.size)
        self._blank = np.zeros((1, *shape), np.uint8)
        self._producer, self._limits, self._clips = producer, limits, ray.get(clips)

    def __call__(self, rows: Columns) -> Iterator[Columns]:
        numbers = {self._clips[number].id: number for number in rows["number"]}
        wanted = [self._clips[number] for number in rows["number"]]
        places: defaultdict[str, int] = defaultdict(int)
        told: dict[str, list[Any]] = defaultdict(list)  # the last sign of life, and the end where it was told
        for clip, message in isolated(self._producer, wanted, 1, self._limits):
            if isinstance(message, Chunk):
                pixels = message.rows["pixels"]
                first = places[clip.id]
                places[clip.id] += len(pixels)
                yield self._rows(numbers[clip.id], first, pixels, [b""] * len(pixels))
            elif isinstance(message, Ended):
                messages = [*told.pop(clip.id, []), message]
                yield self._rows(numbers[clip.id], -1, self._blank, [pickle.dumps(messages)])
            else:
                told[clip.id] = [*told[clip.id][:1], message]

    def _rows(self, number: int, first: int, pixels: np.ndarray, messages: list[bytes]) -> Columns:
        count = len(pixels)
        return {
            "number": np.full(count, number),
            "place": np.arange(first, first + count),
            "pixels": pixels,
            "message": np.array(messages, object),
        }


class _Encode:
    """Rows with pixels -> the same rows with features."""

    def __init__(self, backbone: Any, recipe: Recipe, device: str) -> None:
        import ray

        torch.set_num_threads(1)
        loaded: Backbone = ray.get(backbone)
        self._backbone: Any = loaded.to(device)  # type: ignore[attr-defined]
        self._recipe, self._device = recipe, device

    def __call__(self, rows: Columns) -> Columns:
        pixels = torch.from_numpy(np.stack(list(rows.pop("pixels")))).to(self._device)
        features = encode(self._backbone, pixels, self._recipe)
        return {**rows, **{f"tensor:{name}": rows_of.cpu().numpy() for name, rows_of in features.items()}}


def _assemble(rows: Iterator[dict[str, Any]], clips: Sequence[Clip], tensors: list[str]) -> Iterator[Event]:
    """Put the rows of each clip in order again; a clip is handed on when it is whole."""
    frames: defaultdict[int, dict[int, dict[str, Any]]] = defaultdict(dict)
    ends: dict[int, list[Any]] = {}
    for row in rows:
        number = int(row["number"])
        if row["place"] >= 0:
            frames[number][int(row["place"])] = row
        else:
            ends[number] = pickle.loads(row["message"])
        if number not in ends:
            continue
        done = next((message for message in ends[number] if isinstance(message, Done)), None)
        if done is not None and len(frames[number]) < len(done.notes["seconds"]):
            continue
        parts, messages = frames.pop(number, {}), ends.pop(number)
        if done is not None:
            ordered = [parts[place] for place in sorted(parts)]
            rows_of = {name: np.stack([part[f"tensor:{name}"] for part in ordered]) for name in tensors}
            messages.insert(0, Chunk(rows_of))
        yield from ((clips[number], message) for message in messages)


def _start() -> Any:
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise VideoclipError("--engine ray needs Ray: pip install 'videoclip[ray]'.") from error
    if not ray.is_initialized():
        ray.init(log_to_driver=False, include_dashboard=False)
    ray.data.DataContext.get_current().enable_progress_bars = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)  # there is one progress bar already
    return ray
