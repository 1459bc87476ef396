"""Reading clips: alone, or for training pairs of a clip and one of its captions, a whole batch at a time.

What a pair looks like in an epoch depends on seed, epoch and pair alone, so a resumed run and any number of
processes see the same.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from videoclip.data.manifest import Clip
from videoclip.errors import DataError
from videoclip.features import TextFeatures, VideoFeatures, VideoPixels
from videoclip.layers import masked_mean
from videoclip.store import FeatureStore
from videoclip.store.source import PixelSource, Source
from videoclip.store.sources import is_outdated
from videoclip.video.isolation import METHOD, prepare

T = TypeVar("T")


@dataclass(frozen=True)
class Batch:
    """B pairs: text i belongs to video i.

    Attributes:
        video: cached frames, or pixels where the image tower runs live.
        text: cached features of the captions, or their tokens (B, L) where the text tower runs live.
        video_ids: (B,) equal for pairs of one video.
        text_ids: (B,) equal for pairs of one sentence, whichever its video; in recognition the number of the class.
        targets: (B, K) shares of the classes, where clips were mixed.
    """

    video: VideoFeatures | VideoPixels
    text: TextFeatures | Tensor
    video_ids: Tensor
    text_ids: Tensor
    targets: Tensor | None = None

    def __len__(self) -> int:
        return len(self.video_ids)

    def __getitem__(self, index: slice | Tensor) -> Batch:
        """The pairs that ``index`` names."""
        targets = None if self.targets is None else self.targets[index]
        return Batch(self.video[index], self.text[index], self.video_ids[index], self.text_ids[index], targets)

    def to(self, device: torch.device) -> Batch:
        """Move to a device."""
        ids = self.video_ids.to(device), self.text_ids.to(device)
        return Batch(self.video.to(device), self.text.to(device), *ids)


class ClipsAsPixels(Dataset[VideoPixels]):
    """Clips of a source of pixels, ``at_once`` a time; item n holds the clips from n x ``at_once`` on.

    Args:
        source: has all of them.
        ids: of the clips.
        frames: T.
        at_once: clips an item.
    """

    def __init__(self, source: PixelSource, ids: Sequence[str], frames: int, at_once: int) -> None:
        self._source, self._ids, self._frames, self._at_once = source, list(ids), frames, at_once

    def __len__(self) -> int:
        return math.ceil(len(self._ids) / self._at_once)

    def __getitem__(self, number: int) -> VideoPixels:
        """(at_once, T, 3, S, S), fewer at the end."""
        return self._source.pixels(self._ids[number * self._at_once : (number + 1) * self._at_once], self._frames)


class StoredClips(Dataset[VideoFeatures]):
    """Clips of a store for a torch ``DataLoader``, a whole batch at a time.

    ``DataLoader(StoredClips(store), batch_size=128, shuffle=True, collate_fn=StoredClips.collate)`` gives
    ``VideoFeatures`` of 128 clips. Leave ``num_workers`` at 0: sending a batch between processes costs more than
    reading it from the memory map.

    Args:
        store: to read from.
        ids: of the clips, in the order of the numbers that a sampler draws; all of the store when not given.
        frames, fps, view: see ``FeatureStore.features``.
    """

    def __init__(
        self,
        store: FeatureStore,
        ids: Sequence[str] | None = None,
        frames: int | None = None,
        fps: float | None = None,
        view: str | None = None,
    ) -> None:
        self.ids = store.ids if ids is None else list(ids)
        self._store, self._frames, self._fps, self._view = store, frames, fps, view

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, number: int) -> VideoFeatures:
        """One clip: frames (1, T, D)."""
        return self.__getitems__([number])

    def __getitems__(self, numbers: Sequence[int]) -> VideoFeatures:
        """Clips as one batch: frames (B, T, D)."""
        return self._store.features([self.ids[n] for n in numbers], self._frames, fps=self._fps, view=self._view)

    @staticmethod
    def collate(batch: VideoFeatures) -> VideoFeatures:
        """The batch as it is; it was read as one."""
        return batch


class ClipsInContext:
    """Clips as what ConTra's context transformer reads: each among its neighbours in the long video, by mean frames.

    Neighbours are the other given clips of the same file in order of their start; before the first and after the last
    the border clip is repeated.

    Args:
        store: has the frames.
        clips: all of them in the store.
        radius: neighbours on each side.
        frames: of each clip that its mean is taken over.
    """

    def __init__(self, store: FeatureStore, clips: Sequence[Clip], radius: int, frames: int | None = None) -> None:
        self._store, self._frames = store, frames
        self._clips, self._around = list(clips), neighbours(clips, radius)

    def __len__(self) -> int:
        return len(self._clips)

    def __getitems__(self, numbers: Sequence[int]) -> VideoFeatures:
        """Clips by number: B clips with T = 2 radius + 1 neighbours, themselves in the middle."""
        wanted = [around for number in numbers for around in self._around[number]]
        read = sorted(set(wanted))
        features = self._store.features([self._clips[n].id for n in read], self._frames)
        place = {number: row for row, number in enumerate(read)}
        rows = torch.tensor([place[number] for number in wanted]).view(len(numbers), -1)
        starts = torch.tensor([float(clip.start or 0) for clip in self._clips])
        means = masked_mean(features.frames, features.mask)[rows]
        return VideoFeatures.from_frames(means, seconds=starts[torch.tensor(wanted)].view(rows.shape))


class TrainingPairs:
    """Every (clip, caption) pair of some clips.

    Args:
        source: has the frames, or their pixels.
        clips: all of them in it.
        frames: T; clips with fewer frames are padded.
        texts: of every caption in the order of ``captions``: tokens for a live text tower, features, or the store that
            has them.
        words: read the store's words too.
        context: see ``ModelConfig.context``.
        random_frames: a training step sees random frames of equal segments rather than their middles.
        seed: of the order and of the frames.
        classes: number of each clip's class, which then stands in ``Batch.text_ids``.
    """

    def __init__(
        self,
        source: Source,
        clips: Sequence[Clip],
        frames: int,
        texts: Tensor | TextFeatures | FeatureStore,
        words: bool = False,
        context: int = 0,
        random_frames: bool = False,
        seed: int = 0,
        classes: Sequence[int] | None = None,
    ) -> None:
        self._source, self._frames = source, frames
        self._random, self._seed = random_frames, seed
        self._ids = [clip.id for clip in clips]
        self._owner = np.array([number for number, clip in enumerate(clips) for _ in clip.captions])
        self._context = None
        if context:
            assert isinstance(source, FeatureStore)  # neighbours are read by their mean frames
            self._context = ClipsInContext(source, clips, context, frames)
        self._captions = captions(clips)
        self._sentence = np.unique(self._captions, return_inverse=True)[1]
        if classes is not None:
            self._sentence = np.array(classes)[self._owner]
        self._texts = texts.text(self._captions) if isinstance(texts, FeatureStore) and not words else texts

    def __len__(self) -> int:
        return len(self._owner)

    def order(self, epoch: int) -> np.ndarray:
        """All pairs in the order of an epoch."""
        return np.random.default_rng([self._seed, epoch]).permutation(len(self))

    def batch(self, pairs: np.ndarray, epoch: int) -> Batch:
        """The pairs with these numbers as they look in an epoch, frames (B, T, D)."""
        owners, sentences = self._owner[pairs], self._sentence[pairs]
        video = self._video(owners.tolist(), pairs, epoch)
        return Batch(video, self._of_texts(pairs), torch.from_numpy(owners), torch.from_numpy(sentences))

    def repeats(self, pairs: np.ndarray) -> dict[str, int]:
        """How many couples among pairs with these numbers share the video; how many, of several videos, the caption."""

        def couples(*columns: np.ndarray) -> int:
            counts = np.unique(np.stack(columns), axis=1, return_counts=True)[1]
            return int((counts * (counts - 1) // 2).sum())

        owners, sentences = self._owner[pairs], self._sentence[pairs]
        return {"same_video": couples(owners), "same_caption": couples(sentences) - couples(owners, sentences)}

    def _video(self, owners: Sequence[int], pairs: np.ndarray, epoch: int) -> VideoFeatures | VideoPixels:
        if self._context is not None:
            return self._context.__getitems__(owners)
        ids = [self._ids[owner] for owner in owners]
        generators = [np.random.default_rng([self._seed, epoch, int(p)]) for p in pairs] if self._random else None
        if isinstance(self._source, PixelSource):
            return self._source.pixels(ids, self._frames, generators)
        return self._source.features(ids, self._frames, generators=generators)

    def _of_texts(self, pairs: np.ndarray) -> TextFeatures | Tensor:
        """Held in memory; but cached words are read as needed, since they are many."""
        if isinstance(self._texts, FeatureStore):
            return self._texts.text([self._captions[pair] for pair in pairs], words=True)
        return self._texts[torch.from_numpy(pairs)]


class TrainingBatches(Dataset[Batch]):
    """What a process computes in a training, batch by batch: number ((epoch x steps) + step) x accumulation + part.

    Args:
        pairs: to be drawn from.
        batch_size: pairs of an optimiser step, of all processes and parts together.
        accumulation: parts of a step, which are contrasted each by itself.
        place: number of this process, and how many there are.
    """

    def __init__(
        self, pairs: TrainingPairs, batch_size: int, accumulation: int = 1, place: tuple[int, int] = (0, 1)
    ) -> None:
        self._pairs, self._batch_size, self.accumulation, self._place = pairs, batch_size, accumulation, place
        self.steps = len(pairs) // batch_size
        self._order: tuple[int, np.ndarray] = (-1, np.zeros(0))

    def __getitem__(self, number: int) -> Batch:
        """This process's share of a part."""
        first, processes = self._place
        return self._pairs.batch(self.numbers(number)[first::processes], self._epoch(number))

    def numbers(self, number: int) -> np.ndarray:
        """The pairs of a part, of all processes."""
        epoch = self._epoch(number)
        if self._order[0] != epoch:
            self._order = epoch, self._pairs.order(epoch)
        step = number // self.accumulation % self.steps
        whole = self._order[1][step * self._batch_size : (step + 1) * self._batch_size]
        return np.array_split(whole, self.accumulation)[number % self.accumulation]

    def repeats(self, epochs: int) -> dict[str, int]:
        """Couples within parts, of so many epochs, that share a video, or a caption but no video."""
        total = {"same_video": 0, "same_caption": 0}
        for number in range(epochs * self.steps * self.accumulation):
            for name, count in self._pairs.repeats(self.numbers(number)).items():
                total[name] += count
        return total

    def _epoch(self, number: int) -> int:
        return number // (self.steps * self.accumulation)


def neighbours(clips: Sequence[Clip], radius: int) -> list[list[int]]:
    """For each clip the numbers of the 2 radius + 1 clips around it in its file, by start; borders are repeated."""
    files: dict[str, list[int]] = {}
    for number in sorted(range(len(clips)), key=lambda n: clips[n].start or 0):
        files.setdefault(str(clips[number].path), []).append(number)
    found: dict[int, list[int]] = {}
    for order in files.values():
        for place, number in enumerate(order):
            around = range(place - radius, place + radius + 1)
            found[number] = [order[min(max(i, 0), len(order) - 1)] for i in around]
    return [found[number] for number in range(len(clips))]


def captions(clips: Sequence[Clip]) -> list[str]:
    """All captions of clips, a clip's own beside each other."""
    return [caption for clip in clips for caption in clip.captions]


def ahead(dataset: Dataset[T], numbers: Sequence[int], workers: int) -> Iterator[T]:
    """Items of a dataset in the order of ``numbers``, made by so many processes of their own while others are used."""
    if not workers:
        yield from (dataset[number] for number in numbers)
        return
    prepare()  # or each worker would import torch anew
    yield from DataLoader(
        dataset, batch_size=None, sampler=numbers, num_workers=workers, multiprocessing_context=METHOD
    )


def in_store(clips: Sequence[Clip], store: Source, allow_missing: bool) -> list[Clip]:
    """Return the clips that the store, or the files, have.

    Raises:
        DataError: some are missing and that was not allowed, or all are; or the store has another stretch or file
            under a clip's id.
    """
    found = [clip for clip in clips if clip.id in store]
    missing = len(clips) - len(found)
    if missing and (not allow_missing or not found):
        reasons = {f.id: f.reason for f in store.failures}
        first = next(clip.id for clip in clips if clip.id not in store)
        place = "in the store" if isinstance(store, FeatureStore) else "there"
        raise DataError(
            f"{store.folder}: {missing} of {len(clips)} clips are not {place}, the first is {first!r} "
            f"({reasons.get(first, 'never cached')}); cache them, or set data.allow_missing=true to continue without "
            "them."
        )
    held = store if isinstance(store, FeatureStore) else store.store if store.clips is None else None
    outdated = [] if held is None else [clip.id for clip in found if is_outdated(clip, held.record(clip.id).notes)]
    if outdated:
        raise DataError(
            f"{store.folder}: {len(outdated)} clips were cached from another stretch or file than the manifest names, "
            f"the first is {outdated[0]!r}; run `videoclip cache` again with this manifest."
        )
    return found
