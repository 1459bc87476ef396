"""The store: cached features of a manifest under one backbone and one recipe, opened as memory maps."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import psutil
import torch
from torch import Tensor
from torchvision.io import ImageReadMode, decode_jpeg

from videoclip.backbone import Backbone, reopen_backbone
from videoclip.backbone.trust import confirm_source
from videoclip.data.remote import local_copy
from videoclip.errors import StoreError
from videoclip.features import TextFeatures, VideoFeatures, VideoPixels, as_texts
from videoclip.store.catalog import (
    Failure,
    Kind,
    read_catalog,
    read_failures,
    row_types,
    take_seconds,
)
from videoclip.store.recipe import read_description
from videoclip.store.shards import LOST, Record, Rows
from videoclip.store.sources import vanished
from videoclip.video import sampling

Array = np.ndarray
FORGET_BYTES = 64 << 20  # resident pages of the maps


@dataclass(frozen=True)
class StoredClip:
    """A clip in the store, in the store's dtype.

    Attributes:
        frames: (T, D).
        seconds: (T,) float64 true presentation times.
        patches: (T, N, D) embeddings of the image patches, where the store has them.
        views: (T, V, D) the same frames cropped or augmented otherwise, where the store has them.
        notes: how it came to be: decoder, status (``ok``, ``short``, ``damaged``), errors, sha256 of the file, and its
            source (see ``videoclip.store.sources``).
    """

    id: str
    frames: Tensor
    seconds: Tensor
    patches: Tensor | None
    views: Tensor | None
    notes: dict[str, Any]


class FeatureStore:
    """Read-only view of a store's committed content; safe while a writer works on it.

    Args:
        folder: the store, or the address of a pushed one (``s3://...``), which is read through a local copy.
        in_memory: hold all clips in memory rather than in memory maps.

    Raises:
        StoreError: the folder is not a store, one of its files is damaged, or it does not fit into memory.
    """

    def __init__(self, folder: str | Path, in_memory: bool = False) -> None:
        self.folder = local_copy(folder)
        self.recipe, self._backbone = read_description(self.folder)
        self._catalog = read_catalog(self.folder, self.recipe, "clips")
        self._clips = self._catalog.records
        self._seconds = {key: take_seconds(record) for key, record in self._clips.items()}
        self._in_memory = in_memory
        self._rows: dict[Path, Rows] = {}
        self._touched = 0
        if in_memory:
            self._load()

    @property
    def ids(self) -> list[str]:
        """Ids of all clips, in the order of caching by each writer."""
        return list(self._clips)

    @property
    def fingerprint(self) -> str:
        """Hash of the recipe."""
        return self.recipe.fingerprint

    @property
    def backbone_spec(self) -> dict[str, Any]:
        """Name and pretrained tag of the backbone, as given when the store was made."""
        return dict(self._backbone)

    def open_backbone(self, trust: bool = False, device: str = "cpu") -> Backbone:
        """Load the backbone that made this store, for texts and further videos.

        Args:
            trust: load it though the store names a repository, a folder or a file: the store's author chose that.
            device: as for ``create_backbone``.

        Raises:
            BackboneError: it needs ``trust``, or cannot be loaded.
            StoreError: the features come from elsewhere.
        """
        if self.recipe.backbone.startswith("imported:"):
            raise StoreError(
                f"{self.folder}: its features were imported, and no text tower is known for them; only a store "
                "that `videoclip cache` made can be searched by text."
            )
        spec = self.backbone_spec
        confirm_source(str(spec["name"]), spec["pretrained"], self.folder, trust)
        return reopen_backbone(spec, device)

    @cached_property
    def failures(self) -> list[Failure]:
        """Clips that could not be cached, without those that succeeded later."""
        return [failure for failure in read_failures(self.folder) if failure.id not in self._clips]

    @property
    def lost(self) -> list[str]:
        """Ids of clips whose rows are missing, because their shard is gone or cut off; caching makes them again."""
        return sorted(self._catalog.lost)

    @cached_property
    def vanished(self) -> list[str]:
        """Ids of clips whose video file no longer exists.

        Empty on a machine that lacks even the folder that all files have in common: there the store is a copy without
        its videos. Addresses are not looked up.
        """
        return vanished(self._clips)

    def next_generation(self, clip_id: str) -> int:
        """Return the generation that new rows of a clip get: one more than the highest that the store has seen."""
        return self._catalog.generations.get(clip_id, -1) + 1

    def __len__(self) -> int:
        return len(self._clips)

    def __contains__(self, clip_id: object) -> bool:
        return clip_id in self._clips

    def __getitem__(self, clip_id: str) -> StoredClip:
        """One clip as stored.

        Raises:
            StoreError: the clip is not in the store; the message says why, if caching it failed.
        """
        record = self.record(clip_id)
        names = [name for name in record.tensors if name in ("frames", "patches", "views")]
        tensors = {name: torch.from_numpy(self._extent(record, name).copy()) for name in names}
        seconds = torch.from_numpy(self._seconds[clip_id])
        return StoredClip(
            clip_id, tensors["frames"], seconds, tensors.get("patches"), tensors.get("views"), dict(record.notes)
        )

    def features(
        self,
        ids: Sequence[str],
        frames: int | None = None,
        *,
        fps: float | None = None,
        generators: Sequence[np.random.Generator] | None = None,
        view: str | None = None,
    ) -> VideoFeatures:
        """Clips as one padded batch in single precision.

        Args:
            ids: B clips.
            frames: T; longer clips are thinned out, what is missing is padded. All stored frames without it.
            fps: thin clips out to a frame every 1 / ``fps`` seconds first.
            generators: one a clip, to pick at random inside equal segments rather than their middles; only then may a
                frame come twice.
            view: name of a stored view to take in place of the plain frames.

        Raises:
            StoreError: a clip or the view is not in the store, or it was stored at a lower rate than ``fps``.
        """
        if fps and self.recipe.fps and fps > self.recipe.fps + 1e-9:
            raise StoreError(f"{self.folder}: has {self.recipe.fps:g} frames a second, {fps:g} were asked for.")
        tensor, column = ("frames", None) if view is None else ("views", self._column(view))
        records = [self.record(clip_id) for clip_id in ids]
        chosen = [
            self._choose(clip_id, frames, fps, generators[number] if generators else None)
            for number, clip_id in enumerate(ids)
        ]
        times = [self._seconds[clip_id][index] for clip_id, index in zip(ids, chosen, strict=True)]
        length = frames or max(map(len, times))
        out = np.zeros((len(ids), length, self.recipe.width), self.recipe.dtype)
        mask, seconds = np.zeros(out.shape[:2], bool), np.zeros(out.shape[:2], np.float32)
        for number, (record, index, shown) in enumerate(zip(records, chosen, times, strict=True)):
            rows = self._extent(record, tensor)[index]
            out[number, : len(shown)] = rows if column is None else rows[:, column]
            mask[number, : len(shown)], seconds[number, : len(shown)] = True, shown
        stacked = torch.from_numpy(out).float()
        return VideoFeatures(stacked, torch.from_numpy(mask), torch.from_numpy(seconds), stacked)

    def pixels(
        self,
        ids: Sequence[str],
        frames: int | None = None,
        generators: Sequence[np.random.Generator] | None = None,
    ) -> VideoPixels:
        """Stored pixels of clips as one padded batch; arguments as for ``features``.

        Raises:
            StoreError: a clip is not in the store, or the store holds no pixels.
        """
        if self.recipe.pixels is None:
            raise StoreError(f"{self.folder}: holds no pixels of its frames; cache with --pixels.")
        clips, times = list[Tensor](), list[Tensor]()
        for number, clip_id in enumerate(ids):
            record = self.record(clip_id)
            index = self._choose(clip_id, frames, None, generators[number] if generators else None)
            clips.append(self._pictures(record, index))
            times.append(torch.from_numpy(self._seconds[clip_id][index]))
        return VideoPixels.pad(clips, times, frames)

    def _pictures(self, record: Record, index: slice | Array) -> Tensor:
        """Chosen frames of a clip, (T, 3, S, S) uint8."""
        if self.recipe.pixels == "pixels":
            return torch.from_numpy(np.array(self._extent(record, "pixels")[index]))
        ends = np.cumsum(record.notes["jpeg_bytes"])
        data = self._extent(record, "jpeg")
        chosen = np.arange(len(ends))[index]
        pictures = [data[ends[n] - record.notes["jpeg_bytes"][n] : ends[n]].copy() for n in chosen]
        return torch.stack([decode_jpeg(torch.from_numpy(p), ImageReadMode.RGB) for p in pictures])

    def text(self, captions: str | Sequence[str], words: bool = False) -> TextFeatures:
        """Return cached features of captions, or of one, in single precision.

        Args:
            captions: Q texts.
            words: return the words (Q, L, D) and their mask (Q, L) next to the sentences (Q, D).

        Raises:
            StoreError: a caption, or its words, are not in the store.
        """
        captions = as_texts(captions)
        missing = [c for c in captions if c not in self._texts]
        if missing:
            raise StoreError(
                f"{self.folder}: {len(missing)} of {len(captions)} captions are not in the store, the first is "
                f"{missing[0]!r}; run `videoclip cache` again with their manifest."
            )
        records = [self._texts[c] for c in captions]
        empty = np.zeros((0, self.recipe.width), self.recipe.dtype)
        sentence = np.concatenate([empty, *(self._extent(record, "sentence") for record in records)])
        if not words:
            return TextFeatures(torch.from_numpy(sentence).float())
        if not self.recipe.words:
            raise StoreError(f"{self.folder}: holds no words of its texts; cache with --words.")
        parts = [torch.from_numpy(self._extent(record, "words").copy()).float() for record in records]
        padded = VideoFeatures.pad(parts, [torch.zeros(len(part)) for part in parts])
        return TextFeatures(torch.from_numpy(sentence).float(), padded.frames, padded.mask)

    @property
    def captions(self) -> set[str]:
        """All captions whose features are stored."""
        return set(self._texts)

    def check_backbone(self, backbone: Backbone) -> None:
        """Refuse a backbone that did not make this store.

        Raises:
            StoreError: with both fingerprints.
        """
        if backbone.fingerprint != self.recipe.backbone:
            raise StoreError(
                f"{self.folder} was made with backbone {self.recipe.backbone} ({self.backbone_spec['name']}), but "
                f"{backbone.spec['name']} is {backbone.fingerprint}; features of two backbones must not mix."
            )

    def describe(self) -> dict[str, Any]:
        """What the store is and holds, ready to print."""
        frames = [record.tensors["frames"].rows for record in self._clips.values()]
        notes = [record.notes for record in self._clips.values()]
        return {
            "folder": str(self.folder),
            "fingerprint": self.fingerprint,
            "backbone": self.backbone_spec,
            "recipe": asdict(self.recipe),
            "pixel shape": self.recipe.preprocess.get("pixel_shape", "stored"),
            "interlaced clips": sum(bool(note.get("interlaced")) for note in notes),
            "clips": len(frames),
            "frames": {"total": sum(frames), "least": min(frames, default=0), "most": max(frames, default=0)},
            "texts": len(self._texts),
            "bytes": sum(file.stat().st_size for file in self.folder.iterdir()),
            "status": dict(Counter(note.get("status", "unknown") for note in notes)),
            "decoders": dict(Counter(note.get("decoder", "unknown") for note in notes)),
            "failures": len(self.failures),
            "lost": len(self.lost),
            "vanished": len(self.vanished),
        }

    def records(self, kind: Literal["clips", "texts"]) -> list[Record]:
        """Where every clip, or every text, lies."""
        return list((self._clips if kind == "clips" else self._texts).values())

    def notes(self, record: Record) -> dict[str, Any]:
        """All that the index tells of a record: a clip's times in ``seconds``, and its notes."""
        if "frames" not in record.tensors:  # a text, though its words may be those of a clip's id
            return record.notes
        return {"seconds": self._seconds[record.key].tolist(), **record.notes}

    def raw(self, record: Record) -> dict[str, Array]:
        """The stored rows (N, ...) of a record's tensors, still on disk."""
        return {name: self._extent(record, name) for name in record.tensors}

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_rows": {}}  # a loader's worker opens maps of its own

    @cached_property
    def _texts(self) -> dict[str, Record]:
        return read_catalog(self.folder, self.recipe, "texts").records

    def seconds(self, clip_id: str) -> Array:
        """Return the times (T,) of a clip's stored frames.

        Raises:
            StoreError: as ``record``.
        """
        self.record(clip_id)
        return self._seconds[clip_id]

    def record(self, clip_id: str) -> Record:
        """Return where a clip's rows lie, with its notes.

        Raises:
            StoreError: the clip is not in the store; the message says why, if caching it failed.
        """
        record = self._clips.get(clip_id)
        if record is None:
            reason = next((f.reason for f in self.failures if f.id == clip_id), "it was never cached")
            if clip_id in self._catalog.lost:
                reason = "its shard is missing or cut off; run `videoclip cache` again"
            raise StoreError(f"{self.folder}: has no clip {clip_id!r}: {reason}")
        return record

    def _column(self, view: str) -> int:
        if view not in self.recipe.views:
            held = ", ".join(self.recipe.views) or "none"
            raise StoreError(f"{self.folder}: has no view {view!r}; its views: {held}.")
        return self.recipe.views.index(view)

    def _choose(
        self, clip_id: str, frames: int | None, fps: float | None, generator: np.random.Generator | None
    ) -> slice | Array:
        """Which of a clip's stored frames to take."""
        times = self._seconds[clip_id]
        kept = np.arange(len(times)) if fps is None else sampling.fixed_rate(times, fps).real
        if frames is None or len(kept) <= frames:
            return slice(None) if fps is None else kept
        if generator is None:
            return kept[np.unique(sampling.uniform(times[kept], frames).real)]
        return kept[sampling.random_in_segments(times[kept], frames, generator).real]

    def _extent(self, record: Record, tensor: str) -> Array:
        """A record's rows of a tensor, as a view of the memory map."""
        path, extent = record.file(tensor), record.tensors[tensor]
        rows = self._rows.get(path)
        if rows is None or len(rows.array) < extent.row + extent.rows:
            kind: Kind = "texts" if tensor in self.recipe.text_tensors else "clips"
            rows = Rows(path, *row_types(self.recipe, kind)[tensor], self._in_memory)
            if len(rows.array) < extent.row + extent.rows:
                raise StoreError(f"{path}: is shorter than its index says. {LOST}")
            self._rows[path] = rows
        found = rows.array[extent.row : extent.row + extent.rows]
        self._touched += found.nbytes
        if self._touched > FORGET_BYTES:
            for opened in self._rows.values():
                opened.forget()
            self._touched = 0
        return found

    def _load(self) -> None:
        files = {record.file(name) for record in self._clips.values() for name in record.tensors}
        needed, free = sum(file.stat().st_size for file in files), psutil.virtual_memory().available
        if needed > free:
            raise StoreError(
                f"{self.folder}: needs {needed >> 20} MiB in memory, {free >> 20} are free; open it without in_memory."
            )
        for record in self._clips.values():
            self.raw(record)
