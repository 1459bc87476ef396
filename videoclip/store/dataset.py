"""Reading a store for training: pairs of a clip and one of its captions, a whole batch at a time.

What a pair looks like in an epoch depends on seed, epoch and pair alone, so a resumed run and any number of
processes see the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from videoclip.data.manifest import Clip
from videoclip.errors import DataError
from videoclip.features import TextFeatures, VideoFeatures
from videoclip.store import FeatureStore


@dataclass(frozen=True)
class Batch:
    """B pairs: text i belongs to video i.

    Attributes:
        text: cached features of the captions, or their tokens (B, L) where the text tower runs live.
        video_ids: (B,) equal for pairs of one video.
    """

    video: VideoFeatures
    text: TextFeatures | Tensor
    video_ids: Tensor

    def to(self, device: torch.device) -> Batch:
        """Move to a device."""
        return Batch(self.video.to(device), self.text.to(device), self.video_ids.to(device))


class TrainingPairs:
    """Every (clip, caption) pair of some clips.

    Args:
        store: has the frames.
        clips: all of them in the store.
        frames: T; clips with fewer cached frames are padded.
        tokens: of every caption in the order of ``captions``, for a live text tower; None reads cached texts.
        random_frames: a training step sees random frames of equal segments rather than their middles.
        seed: of the order and of the frames.
    """

    def __init__(
        self,
        store: FeatureStore,
        clips: Sequence[Clip],
        frames: int,
        tokens: Tensor | None = None,
        random_frames: bool = False,
        seed: int = 0,
    ) -> None:
        self._store, self._frames, self._tokens = store, frames, tokens
        self._random, self._seed = random_frames, seed
        self._ids = [clip.id for clip in clips]
        self._owner = [number for number, clip in enumerate(clips) for _ in clip.captions]
        self._text = store.text(captions(clips)) if tokens is None else None

    def __len__(self) -> int:
        return len(self._owner)

    def order(self, epoch: int) -> np.ndarray:
        """All pairs in the order of an epoch."""
        return np.random.default_rng([self._seed, epoch]).permutation(len(self))

    def batch(self, pairs: np.ndarray, epoch: int) -> Batch:
        """The pairs with these numbers as they look in an epoch, frames (B, T, D)."""
        owners = [self._owner[pair] for pair in pairs]
        parts = [
            self._store.features([self._ids[owner]], self._frames, self._generator(pair, epoch))
            for pair, owner in zip(pairs, owners, strict=True)
        ]
        index = torch.from_numpy(pairs)
        text = self._text[index] if self._text is not None else self._tokens[index]  # type: ignore[index]
        return Batch(VideoFeatures.cat(parts), text, torch.tensor(owners))

    def _generator(self, pair: int, epoch: int) -> np.random.Generator | None:
        return np.random.default_rng([self._seed, epoch, int(pair)]) if self._random else None


def captions(clips: Sequence[Clip]) -> list[str]:
    """All captions of clips, a clip's own beside each other."""
    return [caption for clip in clips for caption in clip.captions]


def in_store(clips: Sequence[Clip], store: FeatureStore, allow_missing: bool) -> list[Clip]:
    """The clips that the store has.

    Raises:
        DataError: some are missing and that was not allowed, or all are.
    """
    found = [clip for clip in clips if clip.id in store]
    missing = len(clips) - len(found)
    if missing and (not allow_missing or not found):
        reasons = {f.id: f.reason for f in store.failures}
        first = next(clip.id for clip in clips if clip.id not in store)
        raise DataError(
            f"{store.folder}: {missing} of {len(clips)} clips are not in the store, the first is {first!r} "
            f"({reasons.get(first, 'never cached')}); cache them, or set data.allow_missing=true to go on without."
        )
    return found
