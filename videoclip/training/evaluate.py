"""Evaluation: a model, a store and the clips of a split -> metrics with the ranks behind them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from videoclip.data.manifest import Clip
from videoclip.features import TextFeatures, VideoFeatures
from videoclip.metrics import best_caption_scores, bootstrap_interval, retrieval_metrics, text_to_video_ranks
from videoclip.model import VideoTextModel
from videoclip.store import FeatureStore
from videoclip.store.dataset import ClipsInContext, captions, in_store

TEXTS_AT_ONCE = 256


@dataclass(frozen=True)
class Evaluation:
    """What an evaluation found.

    Attributes:
        metrics: see ``videoclip.metrics.retrieval_metrics``.
        interval: 95 % bootstrap interval of ``text_to_video/R@1`` over queries.
        ranks: (Q,) of each query.
        video_ranks: (B,) of each video's best caption among those of all videos.
        scores: (Q, B).
        texts: the queries; owners: column of each one's video; videos: ids of the gallery.
        missing: clips of the split that the store lacks.
    """

    metrics: dict[str, float]
    interval: tuple[float, float]
    ranks: Tensor
    video_ranks: Tensor
    scores: Tensor
    texts: list[str]
    owners: list[int]
    videos: list[str]
    missing: int

    def summary(self) -> dict[str, object]:
        """Everything but scores and ranks, ready for JSON."""
        counts = {"texts": len(self.texts), "videos": len(self.videos), "missing": self.missing}
        return {**self.metrics, "interval": list(self.interval), **counts}


@torch.no_grad()
def evaluate(
    model: VideoTextModel, store: FeatureStore, clips: Sequence[Clip], allow_missing: bool = False
) -> Evaluation:
    """Rank all videos of ``clips`` for each of their captions, and the other way round.

    Texts are read from the store where the text tower is as the store's backbone has it, and encoded live otherwise.

    Raises:
        DataError: clips are missing from the store and that was not allowed.
    """
    found = in_store(clips, store, allow_missing)
    training = model.training
    model.eval()
    texts = encode_texts(model, store, captions(found))
    scores = model.similarity(texts, encode_gallery(model, store, found)).cpu()
    model.train(training)
    return judge(scores, found, len(clips) - len(found))


def judge(scores: Tensor, clips: Sequence[Clip], missing: int = 0) -> Evaluation:
    """What scores (Q, B) of all captions of clips with the clips themselves amount to."""
    owner = torch.tensor([number for number, clip in enumerate(clips) for _ in clip.captions])
    ranks, _ = text_to_video_ranks(scores, owner)
    columns = torch.arange(len(clips))
    video_ranks, _ = text_to_video_ranks(best_caption_scores(scores.float(), owner, len(clips)), columns)
    return Evaluation(
        metrics=retrieval_metrics(scores, owner),
        interval=bootstrap_interval(100.0 * (ranks <= 1).numpy()),
        ranks=ranks,
        video_ranks=video_ranks,
        scores=scores,
        texts=captions(clips),
        owners=owner.tolist(),
        videos=[clip.id for clip in clips],
        missing=missing,
    )


@torch.no_grad()
def encode_gallery(model: VideoTextModel, store: FeatureStore, clips: Sequence[Clip]) -> VideoFeatures:
    """Clips through the model's temporal encoder, from their own frames or from their neighbours'."""
    if not model.config.context:
        return model.encode_store(store, [clip.id for clip in clips])
    return model.encode_clips(ClipsInContext(store, clips, model.config.context, model.config.frames))


@torch.no_grad()
def encode_texts(model: VideoTextModel, store: FeatureStore, texts: Sequence[str]) -> TextFeatures:
    """Texts from the store, or through the model's text tower; see ``runs_live``."""
    device = model.logit_scale.device
    words = model.similarity.needs_words
    if not runs_live(model, store):
        return store.text(texts, words).to(device)
    parts = [model.encode_text(texts[i : i + TEXTS_AT_ONCE]) for i in range(0, len(texts), TEXTS_AT_ONCE)]
    return TextFeatures(torch.cat([p.sentence for p in parts]), *_joined_words(parts))


def _joined_words(parts: Sequence[TextFeatures]) -> tuple[Tensor | None, Tensor | None]:
    words = [p.words for p in parts if p.words is not None]
    masks = [p.mask for p in parts if p.mask is not None]
    return (torch.cat(words), torch.cat(masks)) if words else (None, None)


def runs_live(model: VideoTextModel, store: FeatureStore) -> bool:
    """Whether texts must pass the model's text tower: it is trained, or the store lacks words that are needed."""
    return model.config.text_tuning.name != "none" or (model.similarity.needs_words and not store.recipe.words)
