"""Searching a store with a sentence."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from videoclip.backbone import reopen_backbone
from videoclip.features import VideoFeatures
from videoclip.model import VideoTextModel, create_model
from videoclip.store import FeatureStore


@dataclass(frozen=True)
class Hit:
    """A clip that was found.

    Attributes:
        id: the clip.
        start, end: times of its first and last cached frame, in seconds.
        score: in cosine units.
        seconds: time of the frame that fits the text best.
    """

    id: str
    start: float
    end: float
    score: float
    seconds: float


@torch.no_grad()
def search(store: FeatureStore | str | Path, text: str, k: int = 5, model: VideoTextModel | None = None) -> list[Hit]:
    """The k best clips of a store for a sentence, best first.

    Args:
        model: whose scores count; without one, query scoring on the backbone that made the store, untrained.

    Raises:
        StoreError: there is no store, or the model's backbone did not make it.
        BackboneError: the store's backbone cannot be loaded.
    """
    store = store if isinstance(store, FeatureStore) else FeatureStore(store)
    model = model or default_model(store)
    if model.backbone is not None:
        store.check_backbone(model.backbone)
    query = model.encode_text([text])
    ids = store.ids
    gallery = model.encode_store(store, ids)
    scores = model.similarity(query, gallery)[0]
    best = scores.topk(min(k, len(scores))).indices
    found = gallery[best]
    cosines = torch.nn.functional.cosine_similarity(query.sentence[:, None], found.source, dim=-1)
    moments = found.seconds.gather(1, cosines.masked_fill(~found.mask, -2).argmax(1, keepdim=True))[:, 0]
    return [_hit(ids[i], found, n, scores[i], moments[n]) for n, i in enumerate(best.tolist())]


def default_model(store: FeatureStore) -> VideoTextModel:
    """Query scoring on the backbone that made a store, without anything trained, over all cached frames."""
    longest = store.describe()["frames"]["most"]
    backbone = reopen_backbone(store.backbone_spec)
    model = create_model(backbone, similarity="query_scoring", frames=max(1, longest))
    return model.eval()


def _hit(clip_id: str, found: VideoFeatures, number: int, score: torch.Tensor, moment: torch.Tensor) -> Hit:
    seconds = found.seconds[number][found.mask[number]]
    return Hit(clip_id, float(seconds[0]), float(seconds[-1]), float(score), float(moment))
