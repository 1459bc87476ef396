"""The store: cached features of a manifest under one backbone and one recipe, opened as memory maps."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from videoclip.backbone import Backbone
from videoclip.errors import StoreError
from videoclip.features import TextFeatures, VideoFeatures
from videoclip.store.shards import Record, open_rows, read_index
from videoclip.video import sampling

FORMAT = 1


@dataclass(frozen=True)
class Recipe:
    """Everything that decides what the stored numbers are; stores of unequal recipes must not mix.

    Attributes:
        backbone: fingerprint of weights and preprocessing.
        frames, fps: which frames were taken; see ``videoclip.video.clip.FrameChoice``.
        decoder: ``auto`` or ``pyav``.
        dtype: of the stored rows.
        width: D.
    """

    backbone: str
    frames: int | None
    fps: float | None
    decoder: str
    dtype: str
    width: int

    @property
    def fingerprint(self) -> str:
        """Hash of all fields."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()[:16]

    def differences(self, other: Recipe) -> list[str]:
        """``field: this one's / the other's`` where they differ."""
        pairs = ((f.name, getattr(self, f.name), getattr(other, f.name)) for f in fields(self))
        return [f"{name}: {mine} / {theirs}" for name, mine, theirs in pairs if mine != theirs]


@dataclass(frozen=True)
class StoredClip:
    """A clip in the store: frames (T, D) as stored, seconds (T,), and how it came to be."""

    id: str
    frames: Tensor
    seconds: Tensor
    notes: dict[str, Any]


@dataclass(frozen=True)
class Failure:
    """A clip that could not be cached: where it failed, why, and after how many seconds."""

    id: str
    path: str
    stage: str
    reason: str
    seconds: float


class FeatureStore:
    """Read-only view of a store's committed content; safe while a writer works on it.

    Raises:
        StoreError: the folder is no store.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        description = self.folder / "store.json"
        if not description.is_file():
            raise StoreError(
                f"{self.folder} is no feature store (it has no store.json); make one with `videoclip cache`."
            )
        self._description = json.loads(description.read_text())
        if self._description.get("format") != FORMAT:
            raise StoreError(
                f"{self.folder}: store format {self._description.get('format')}; this version reads {FORMAT}."
            )
        self.recipe = Recipe(**self._description["recipe"])
        self._clips = self._read("clips")
        self._maps: dict[Path, np.ndarray] = {}

    @property
    def ids(self) -> list[str]:
        """Ids of all clips, in the order of caching."""
        return list(self._clips)

    @property
    def fingerprint(self) -> str:
        """Hash of the recipe."""
        return self.recipe.fingerprint

    @property
    def backbone_spec(self) -> dict[str, str | None]:
        """Name and pretrained tag of the backbone, as given when the store was made."""
        return dict(self._description["backbone"])

    @cached_property
    def failures(self) -> list[Failure]:
        """Clips that could not be cached, without those that succeeded later."""
        path = self.folder / "failures.jsonl"
        lines = path.read_text().splitlines() if path.exists() else []
        found = {failure.id: failure for failure in map(_failure, lines) if failure}
        return [failure for failure in found.values() if failure.id not in self._clips]

    def __len__(self) -> int:
        return len(self._clips)

    def __contains__(self, clip_id: object) -> bool:
        return clip_id in self._clips

    def __getitem__(self, clip_id: str) -> StoredClip:
        """One clip as stored.

        Raises:
            StoreError: the clip is not in the store; the message says why, if caching it failed.
        """
        record = self._clips.get(clip_id)
        if record is None:
            reason = next((f.reason for f in self.failures if f.id == clip_id), "it was never cached")
            raise StoreError(f"{self.folder}: has no clip {clip_id!r}: {reason}")
        notes = {k: v for k, v in record.notes.items() if k != "seconds"}
        seconds = torch.tensor(record.notes["seconds"], dtype=torch.float64)
        return StoredClip(clip_id, torch.from_numpy(self._rows(record)), seconds, notes)

    def features(
        self, ids: Sequence[str], frames: int | None = None, generator: np.random.Generator | None = None
    ) -> VideoFeatures:
        """Clips as one padded batch in single precision.

        Args:
            ids: B clips.
            frames: T; longer clips are thinned out, shorter ones padded. None takes all stored frames.
            generator: pick at random inside equal segments rather than their middles.
        """
        clips = [self[clip_id] for clip_id in ids]
        if frames is not None:
            clips = [_thin(clip, frames, generator) for clip in clips]
        return VideoFeatures.pad([c.frames.float() for c in clips], [c.seconds.float() for c in clips], frames)

    def text(self, captions: Sequence[str]) -> TextFeatures:
        """Cached features of captions: sentence (Q, D) in single precision.

        Raises:
            StoreError: a caption is not in the store.
        """
        missing = [c for c in captions if c not in self._texts]
        if missing:
            raise StoreError(
                f"{self.folder}: {len(missing)} of {len(captions)} captions are not in the store, the first is "
                f"{missing[0]!r}; run `videoclip cache` again with their manifest."
            )
        rows = (
            np.concatenate([self._rows(self._texts[c]) for c in captions])
            if captions
            else np.zeros((0, self.recipe.width))
        )
        return TextFeatures(torch.from_numpy(rows).float())

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
        frames = [record.rows for record in self._clips.values()]
        return {
            "folder": str(self.folder),
            "fingerprint": self.fingerprint,
            "backbone": self.backbone_spec,
            "recipe": asdict(self.recipe),
            "clips": len(frames),
            "frames": {"total": sum(frames), "least": min(frames, default=0), "most": max(frames, default=0)},
            "texts": len(self._texts),
            "failures": len(self.failures),
            "damaged": sum(bool(r.notes.get("damaged")) for r in self._clips.values()),
        }

    @property
    def captions(self) -> set[str]:
        """All captions whose features are stored."""
        return set(self._texts)

    @cached_property
    def _texts(self) -> dict[str, Record]:
        return self._read("texts")

    def _read(self, kind: str) -> dict[str, Record]:
        return {r.key: r for index in sorted(self.folder.glob(f"{kind}-*.idx")) for r in read_index(index)}

    def _rows(self, record: Record) -> np.ndarray:
        """A copy of a record's rows (N, D)."""
        mapped = self._maps.get(record.shard)
        if mapped is None or len(mapped) < record.row + record.rows:
            mapped = self._maps[record.shard] = open_rows(record.shard)
        if len(mapped) < record.row + record.rows:
            raise StoreError(f"{record.shard}: is shorter than its index says; copy it again, or cache again.")
        return np.array(mapped[record.row : record.row + record.rows])


def _failure(line: str) -> Failure | None:
    """A line of the failures table; None for what a kill left of one, whose clip will simply be tried again."""
    try:
        return Failure(**json.loads(line))
    except (ValueError, TypeError):
        return None


def _thin(clip: StoredClip, frames: int, generator: np.random.Generator | None) -> StoredClip:
    if len(clip.frames) <= frames:
        return clip
    times = clip.seconds.numpy()
    chosen = (
        sampling.uniform(times, frames) if generator is None else sampling.random_in_segments(times, frames, generator)
    )
    return StoredClip(clip.id, clip.frames[chosen.real], clip.seconds[chosen.real], clip.notes)
