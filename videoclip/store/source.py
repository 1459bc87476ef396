"""Where a model's clips come from: features in a store, or pixels for an image tower that is run now.

Pixels are read from a store that holds them, or decoded from the files themselves. One clip's frames all get the same
augmentation, which depends on the generator that is given for the clip.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from videoclip.data.manifest import Clip
from videoclip.errors import DataError, DecodeError
from videoclip.features import VideoPixels
from videoclip.store import FeatureStore
from videoclip.store.catalog import Failure
from videoclip.store.launch import own_cores
from videoclip.video.clip import ClipPixels, FrameChoice, load_clip
from videoclip.video.preprocess import Preprocess
from videoclip.video.views import augmented

Generators = Sequence[np.random.Generator]
Transform = Callable[..., Tensor]
Augmentation = Literal["none", "crop", "crop_flip"]


@dataclass(frozen=True)
class PixelSource:
    """Clips as pixels, of a store or decoded from files.

    Attributes:
        preprocess: the backbone's image transform.
        store: has texts, and pixels where ``clips`` is None.
        clips: by id, to be decoded from their files.
        augmentation: of clips that a generator is given for: ``crop`` takes 50 to 100 % of the area, ``crop_flip``
            mirrors half of the clips as well.
        workers: processes that read ahead.
        failures: clips whose file is not there.
    """

    preprocess: Preprocess
    store: FeatureStore | None = None
    clips: dict[str, Clip] | None = None
    augmentation: Augmentation = "none"
    workers: int = 0
    failures: list[Failure] = field(default_factory=list)

    @classmethod
    def of(
        cls,
        clips: Sequence[Clip],
        store: FeatureStore | None,
        preprocess: Preprocess,
        augmentation: Augmentation = "none",
        workers: int | None = None,
    ) -> PixelSource:
        """The store's pixels if it has any, else the clips' own files; those that do not exist count as failed.

        Args:
            workers: when not given, all cores but one, and none for uncompressed pixels.
        """
        held = None if store is None else store.recipe.pixels
        if workers is None:
            workers = 0 if held == "pixels" else own_cores() - 1
        if store is not None and held:
            return cls(preprocess, store, None, augmentation, workers, store.failures)
        lost = [clip for clip in clips if not Path(clip.path).is_file()]
        failures = [Failure(c.id, str(c.path), "open", f"{c.path}: there is no such file", "", 0.0) for c in lost]
        gone = {clip.id for clip in lost}
        there = {clip.id: clip for clip in clips if clip.id not in gone}
        return cls(preprocess, store, there, augmentation, workers, failures)

    @property
    def folder(self) -> str:
        """Where clips are looked for, for messages."""
        return str(self.store.folder) if self.store is not None and self.clips is None else "the video files"

    def __contains__(self, clip_id: object) -> bool:
        return clip_id in self.clips if self.clips is not None else self.store is not None and clip_id in self.store

    def pixels(self, ids: Sequence[str], frames: int, generators: Generators | None = None) -> VideoPixels:
        """Clips as one padded batch.

        Args:
            ids: B clips.
            frames: T; uniform, or with generators, one a clip, at random inside equal segments.
            generators: also draw the augmentation.

        Raises:
            DataError: a file cannot be decoded.
        """
        if self.clips is None:
            assert self.store is not None  # see ``of``
            read = self.store.pixels(ids, frames, generators)
            if generators is None or self.augmentation == "none":
                return read
            views = [
                self._transform(generator)(clip.permute(0, 2, 3, 1))
                for clip, generator in zip(read.pixels, generators, strict=True)
            ]
            return VideoPixels(torch.stack(views), read.mask, read.seconds)
        clips = [self.clips[clip_id] for clip_id in ids]
        found = [self._decode(clip, frames, generators[n] if generators else None) for n, clip in enumerate(clips)]
        return VideoPixels.pad([clip.pixels for clip in found], [clip.seconds for clip in found], frames)

    def _decode(self, clip: Clip, frames: int, generator: np.random.Generator | None) -> ClipPixels:
        choice = FrameChoice(frames=frames, generator=generator)
        try:
            return load_clip(clip.path, choice, self._transform(generator), clip.start, clip.end)
        except DecodeError as error:
            raise DataError(
                f"clip {clip.id!r} cannot be read ({error}); `videoclip cache --pixels` finds such files before a "
                "training does: train from its store, with data.allow_missing=true."
            ) from error

    def _transform(self, generator: np.random.Generator | None) -> Transform:
        """The image transform of one clip: the same for all its frames (T, H, W, 3), however many come at a time."""
        if generator is None or self.augmentation == "none":
            return self.preprocess

        def transform(frames: np.ndarray | Tensor, aspect: float = 1.0) -> Tensor:
            pixels = torch.as_tensor(frames).permute(0, 3, 1, 2)
            drawn = copy.deepcopy(generator)  # the same numbers each time, also where the picture's size changes
            return augmented(pixels, self.preprocess, drawn, self.augmentation == "crop_flip", aspect)

        return transform


Source = FeatureStore | PixelSource


def texts_of(source: Source) -> FeatureStore | None:
    """The store that has the texts of a source, if there is one."""
    return source if isinstance(source, FeatureStore) else source.store
