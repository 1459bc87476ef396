"""From a store, or from files, to the pooled clips and class texts that classifiers read.

Shapes: N clips, V views, T frames, D joint width.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from videoclip.backbone.walk import Tower
from videoclip.classifier import ClassTexts, Clips, Need
from videoclip.classifier.parts.prompts import PromptTower
from videoclip.config import Component
from videoclip.data.annotations import read_lines
from videoclip.data.classes import ClassList, Sentences
from videoclip.data.manifest import Clip, read_manifest
from videoclip.errors import DataError, VideoclipError
from videoclip.features import VideoFeatures
from videoclip.layers import masked_mean
from videoclip.model import VIDEOS_AT_ONCE, VideoTextModel, create_model, walking
from videoclip.similarity.mean import Mean
from videoclip.store import FeatureStore
from videoclip.store.dataset import in_store
from videoclip.training.evaluate import encode_texts
from videoclip.tuning import Tuning
from videoclip.video.views import CROPS


@dataclass(frozen=True)
class View:
    """One look at clips: which of ``count`` interleaved choices of frames, and which crop; the plain one is 0 of 1."""

    number: int = 0
    count: int = 1
    crop: str | None = None


class Reader:
    """Reads clips of a store through a model.

    Args:
        store: has frames.
        model: pools them, and encodes class texts; ``plain_model`` for their mean on the store's backbone.

    Raises:
        StoreError: the model's backbone did not make the store.
        DataError: the model's image tower was trained, so that it needs pixels, and the store has none.
    """

    def __init__(self, store: FeatureStore, model: VideoTextModel) -> None:
        self.store, self.model = store, model
        if model.backbone is not None:
            store.check_backbone(model.backbone)
        if model.config.context:
            raise DataError("This model reads a clip among its neighbours in the long video: it pools no clip alone.")
        if model.config.live_images and store.recipe.pixels is None:
            raise DataError(
                f"{store.folder}: holds no pixels, and this model's image tower was trained: cache with --pixels, or "
                "`videoclip merge` the model where its tuning allows that and cache with the merged backbone."
            )

    def clips(self, chosen: Sequence[Clip], classes: ClassList | None, needs: Collection[Need] = ()) -> Clips:
        """Pooled clips, with their labels where classes are given.

        Raises:
            DataError: a clip is not in the store, or its label is none of the classes.
        """
        in_store(chosen, self.store, allow_missing=False)
        names = [] if self.model.config.live_images else self.store.recipe.views
        passes = [self._pooled(chosen, view=name) for name in names if name not in CROPS]
        frames = crops = mask = None
        if "frames" in needs and self.model.config.live_images:
            raise DataError(
                "This method reads plain frames, and this model's image tower was trained: take another one."
            )
        if "frames" in needs:
            plain = self._frames(chosen)
            frames, mask = plain.frames, plain.mask
            other = [self._frames(chosen, name).frames for name in CROPS if name in names]
            crops = torch.stack(other) if other else None
        labels = None
        if classes is not None:
            numbers = [classes.number(str(clip.label), f"clip {clip.id!r}") for clip in chosen]
            labels = torch.tensor(numbers, dtype=torch.long)
        return Clips(self._pooled(chosen), labels, torch.stack(passes) if passes else None, frames, mask, crops)

    def views(self, chosen: Sequence[Clip], views: Sequence[View], needs: Collection[Need] = ()) -> list[Clips]:
        """The same clips, without labels, once for each view."""
        return [self._seen(chosen, view, needs) for view in views]

    def _seen(self, chosen: Sequence[Clip], view: View, needs: Collection[Need]) -> Clips:
        if view == View():
            return self.clips(chosen, None, needs)
        if self.model.config.live_images:
            raise DataError(
                "This model's image tower was trained, and views are of the untrained one: test it plainly."
            )
        if "frames" in needs and view.crop is not None:
            raise DataError("This method looks at all crops of a clip by itself: test it without --crops.")
        parts = []
        for ids in _parts([clip.id for clip in chosen]):
            every = self.store.features(ids, view=view.crop)
            parts.append(interleaved(every, self.model.config.frames, view.number, view.count))
        seen = VideoFeatures.cat(parts)
        with torch.no_grad():
            encoded = [self.model.encode_video(seen[i : i + VIDEOS_AT_ONCE]) for i in _starts(len(seen))]
        pooled = torch.cat([pooled_of(self.model, part) for part in encoded])
        return Clips(pooled, None, None, seen.frames, seen.mask)

    def _frames(self, chosen: Sequence[Clip], view: str | None = None) -> VideoFeatures:
        frames = self.model.config.frames
        parts = [self.store.features(ids, frames, view=view) for ids in _parts([clip.id for clip in chosen])]
        return VideoFeatures.cat(parts)

    @torch.no_grad()
    def _pooled(self, chosen: Sequence[Clip], view: str | None = None) -> Tensor:
        frames, found = self.model.config.frames, []
        for ids in _parts([clip.id for clip in chosen]):
            if self.model.config.live_images:
                encoded = self.model.encode_store(self.store, ids)
            else:
                encoded = self.model.encode_video(self.store.features(ids, frames, view=view))
            found.append(pooled_of(self.model, encoded))
        return torch.cat(found)


def plain_model(store: FeatureStore, frames: int | None = None, trust: bool = False) -> VideoTextModel:
    """Return the mean of unnormalised frames on the backbone that made a store; of all its frames when not given.

    Raises:
        BackboneError: the store names a folder or a repository, and ``trust`` is not set.
    """
    frames = frames or max(1, store.describe()["frames"]["most"])
    mean = Component(name="mean", options={"normalize_frames": False})
    return create_model(store.open_backbone(trust), similarity=mean, frames=frames).eval()


def pooled_of(model: VideoTextModel, video: VideoFeatures) -> Tensor:
    """One vector a clip (N, D): the mean frame at its own length where the model pools so, else of unit length.

    Raises:
        DataError: the model pools by the text.
    """
    similarity = model.similarity
    if isinstance(similarity, Mean) and not similarity.normalize_frames:
        return masked_mean(video.frames, video.mask)
    try:
        return similarity.pool(video)
    except NotImplementedError as error:
        raise DataError(f"This model gives no vector of a clip alone to classify: {error}") from error


@torch.no_grad()
def class_texts(model: VideoTextModel, classes: ClassList, sentences: Sentences, prompts: bool = False) -> ClassTexts:
    """What is said about classes, encoded; with ``prompts`` also the text tower.

    Raises:
        BackboneError: the text tower takes no prompts.
    """
    encoded = encode_texts(model, None, [text for texts in sentences.texts for text in texts])
    rows = encoded.sentence.split([len(texts) for texts in sentences.texts])
    return ClassTexts(classes.phrases, tuple(rows), prompt_tower(model) if prompts else None)


def prompt_tower(model: VideoTextModel) -> PromptTower:
    """A model's text tower, with what was trained inside it, for prompts of embeddings."""
    assert model.backbone is not None
    tunings = walking(model.text_tuning)
    if any(type(tuning).ids is not Tuning.ids for tuning in tunings):
        raise VideoclipError("This model's text tower was trained with prompts of its own; learn none beside them.")
    name = str(model.backbone.spec["name"])
    return PromptTower(Tower("text", model.backbone.text_tower, name, model.backbone.tokenize), tunings)


def interleaved(video: VideoFeatures, frames: int, number: int, count: int) -> VideoFeatures:
    """Choice ``number`` of ``count``: of each of ``frames`` equal segments of a clip the frame at that share of it."""
    real = video.mask.sum(1, keepdim=True)
    share = (torch.arange(frames) + (number + 0.5) / count) / frames
    places = (share * real).long().minimum((real - 1).clamp(min=0))
    rows = torch.arange(len(video))[:, None]
    chosen = video.frames[rows, places]
    mask = torch.ones(places.shape, dtype=torch.bool) & (real > 0)
    return VideoFeatures(chosen, mask, video.seconds[rows, places], chosen)


def bank_of(path: Path | None, split: str | None) -> list[str]:
    """The sentences of a file, a line each, or the captions of a manifest's split; none without a file.

    Raises:
        DataError: it holds none.
    """
    if path is None:
        return []
    if path.suffix == ".jsonl":
        lines = [caption for clip in read_manifest(path) if split in (None, clip.split) for caption in clip.captions]
    else:
        lines = read_lines(path)
    if not lines:
        raise DataError(f"{path}: holds no sentence" + (f" of split {split!r}." if split else "."))
    return list(dict.fromkeys(lines))


def _parts(ids: Sequence[str]) -> list[Sequence[str]]:
    return [ids[i : i + VIDEOS_AT_ONCE] for i in range(0, len(ids), VIDEOS_AT_ONCE)]


def _starts(count: int) -> range:
    return range(0, count, VIDEOS_AT_ONCE)
