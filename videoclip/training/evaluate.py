"""Evaluation: a model, a store and the clips of a split -> metrics with the ranks behind them.

In a launch of several processes all must call it, each does its share, and all get the same.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from videoclip.data.manifest import Clip
from videoclip.errors import DataError
from videoclip.features import TextFeatures, VideoFeatures, VideoPixels, as_texts
from videoclip.files import replace_text
from videoclip.metrics import bootstrap_interval, hits, metrics_of
from videoclip.metrics.ranks import Ranks, Scores, VideoToText, rank
from videoclip.model import VIDEOS_AT_ONCE, VideoTextModel
from videoclip.store import FeatureStore
from videoclip.store.dataset import ClipsAsPixels, ClipsInContext, StoredClips, ahead, captions, in_store
from videoclip.store.source import PixelSource, Source, texts_of
from videoclip.training.processes import gather_parts, join, place

TEXTS_AT_ONCE = 256  # rounding depends on it, so it is the same for every number of processes


@dataclass(frozen=True)
class Evaluation:
    """What an evaluation found.

    Attributes:
        metrics: see ``videoclip.metrics.retrieval_metrics``.
        interval: 95 % bootstrap interval of ``text_to_video/R@1`` over queries.
        ranks: of each query, and of each video's best caption.
        scores: rows by need.
        texts: the queries; videos: ids of the gallery.
        missing: clips of the split that the store lacks.
        same_caption: how many queries stand at several videos, and R@1 if each of those videos counts as right.
    """

    metrics: dict[str, float]
    interval: tuple[float, float]
    ranks: Ranks
    scores: Scores
    texts: list[str]
    videos: list[str]
    missing: int
    same_caption: dict[str, float]

    def summary(self) -> dict[str, object]:
        """Everything but scores and ranks, ready for JSON."""
        counts = {"texts": len(self.texts), "videos": len(self.videos), "missing": self.missing}
        return {**self.metrics, "interval": list(self.interval), **counts, "same_caption": self.same_caption}

    def write_ranks(self, folder: Path, split: str) -> None:
        """Keep the rank of every query of both directions, so that two results can be compared query by query."""
        queries = [[self.videos[owner], caption] for owner, caption in zip(self.scores.owner, self.texts, strict=True)]
        values = {"text_to_video": {"queries": queries, "ranks": self.ranks.text.tolist()}}
        if self.ranks.video is not None and len(self.ranks.video):
            values["video_to_text"] = {"queries": self.videos, "ranks": self.ranks.video.tolist()}
        replace_text(folder / f"{split}.ranks.json", json.dumps(values) + "\n")


@torch.no_grad()
def evaluate(
    model: VideoTextModel,
    source: Source,
    clips: Sequence[Clip],
    allow_missing: bool = False,
    video_to_text: VideoToText | None = "best_caption",
) -> Evaluation:
    """Rank all videos of ``clips`` for each of their captions, and the other way round.

    Frames, or their pixels for a model that trained inside the image tower, come from the source. Texts are read from
    its store where the text tower is as the store's backbone has it, and encoded live otherwise.

    Args:
        allow_missing: go on without clips that the store lacks.
        video_to_text: see ``videoclip.metrics.ranks.rank``.

    Raises:
        DataError: clips are missing from the source and that was not allowed.
    """
    found = in_store(clips, source, allow_missing)
    owner = _owners(found).to(model.logit_scale.device)
    rows = score_rows(model, source, encode_gallery(model, source, found), captions(found))
    scores = Scores(rows, owner, len(found), TEXTS_AT_ONCE, place(), join)
    return judge(scores, found, len(clips) - len(found), video_to_text)


def judge(
    scores: Scores | Tensor, clips: Sequence[Clip], missing: int = 0, video_to_text: VideoToText | None = "best_caption"
) -> Evaluation:
    """What scores (Q, B) of all captions of clips with the clips themselves amount to."""
    if isinstance(scores, Tensor):
        scores = Scores.of(scores, _owners(clips))
    ranks, texts = rank(scores, video_to_text), captions(clips)
    return Evaluation(
        metrics=metrics_of(ranks),
        interval=bootstrap_interval(hits(ranks.text.cpu())),
        ranks=ranks,
        scores=scores,
        texts=texts,
        videos=[clip.id for clip in clips],
        missing=missing,
        same_caption=_same_caption(scores, texts, ranks),
    )


def score_rows(
    model: VideoTextModel, source: Source, gallery: VideoFeatures, texts: Sequence[str]
) -> Callable[[Tensor], Tensor]:
    """A function that scores the texts of given numbers (q,) against an encoded gallery: (q, B)."""

    def rows(index: Tensor) -> Tensor:
        with scoring(model):
            return model.similarity(encode_texts(model, source, [texts[i] for i in index.tolist()]), gallery)

    return rows


@contextmanager
def scoring(model: VideoTextModel) -> Iterator[None]:
    """Evaluation mode without gradients; afterwards as before."""
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        model.train(training)


def encode_gallery(model: VideoTextModel, source: Source, clips: Sequence[Clip]) -> VideoFeatures:
    """Clips through the model, from their own frames or pixels, or from their neighbours' frames."""
    first, processes = place()
    numbers = range(first, -(-len(clips) // VIDEOS_AT_ONCE), processes)
    parts = {}
    with scoring(model):
        for number, some in zip(numbers, galleries(model, source, clips, numbers), strict=True):
            parts[number] = model.encode_video(some.to(model.logit_scale.device))
    everybody = gather_parts({n: part.to("cpu") for n, part in parts.items()} if processes > 1 else parts)
    return VideoFeatures.cat(everybody).to(model.logit_scale.device)


def galleries(
    model: VideoTextModel, source: Source, clips: Sequence[Clip], numbers: Sequence[int], frames: int | None = None
) -> Iterator[VideoFeatures | VideoPixels]:
    """Parts of ``VIDEOS_AT_ONCE`` clips, those of the given numbers, as the model reads them."""
    ids, frames = [clip.id for clip in clips], frames or model.config.frames
    if isinstance(source, PixelSource):
        return ahead(ClipsAsPixels(source, ids, frames, VIDEOS_AT_ONCE), numbers, source.workers)
    context = model.config.context
    read: StoredClips | ClipsInContext = (
        ClipsInContext(source, clips, context, frames) if context else StoredClips(source, ids, frames)
    )
    ranges = (range(n * VIDEOS_AT_ONCE, min((n + 1) * VIDEOS_AT_ONCE, len(clips))) for n in numbers)
    return (read.__getitems__(some) for some in ranges)


def encode_texts(model: VideoTextModel, source: Source | None, texts: Sequence[str]) -> TextFeatures:
    """Return texts from the source's store, or through the model's text tower; see ``runs_live``."""
    texts = as_texts(texts)
    store = None if source is None else texts_of(source)
    if store is not None and not runs_live(model, store):
        return store.text(texts, model.similarity.needs_words).to(model.logit_scale.device)
    with scoring(model):
        parts = [model.encode_text(texts[i : i + TEXTS_AT_ONCE]) for i in range(0, len(texts), TEXTS_AT_ONCE)]
    return TextFeatures.cat(parts)


def runs_live(model: VideoTextModel, store: FeatureStore | None) -> bool:
    """Whether texts must pass the model's text tower: it is trained, or no store has them, or not the words needed."""
    return model.config.live_texts or store is None or (model.similarity.needs_words and not store.recipe.words)


def source_for(model: VideoTextModel, store: FeatureStore | None, clips: Sequence[Clip]) -> Source:
    """What a model can be evaluated from: a store, its pixels or the files where the image tower was trained.

    Raises:
        DataError: there is no store, and the model reads frames as the backbone gives them.
        StoreError: the store was made with another backbone.
    """
    assert model.backbone is not None
    if store is not None:
        store.check_backbone(model.backbone)
    if model.config.live_images:
        return PixelSource.of(clips, store, model.backbone.preprocess)
    if store is None:
        raise DataError("This model reads cached frames: name their store with --store.")
    return store


def _owners(clips: Sequence[Clip]) -> Tensor:
    return torch.tensor([number for number, clip in enumerate(clips) for _ in clip.captions])


def _same_caption(scores: Scores, texts: Sequence[str], ranks: Ranks) -> dict[str, float]:
    """A retrieved video is hardly wrong if the query stands at it, too."""
    videos: dict[str, set[int]] = {}
    for text, owner in zip(texts, scores.owner.tolist(), strict=True):
        videos.setdefault(text, set()).add(owner)
    several = [len(videos[text]) > 1 for text in texts]
    right_first = (ranks.text <= 1).long()
    if any(several):
        mine = torch.zeros_like(right_first)
        for index, rows in scores.chunks():
            mine[index] = right_first[index]
            for number, row in zip(index.tolist(), rows, strict=True):
                if several[number]:
                    right = sorted(videos[texts[number]])
                    wrong = row.index_fill(0, torch.tensor(right, device=row.device), -torch.inf).max()
                    mine[number] = row[right].max() > wrong
        right_first = scores.join(mine, "sum")
    return {"texts": sum(several), "text_to_video/R@1": 100 * int(right_first.sum()) / len(texts)}
