"""Searching a store with a sentence."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import torch

from videoclip.errors import StoreError
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
        vanished: whether its video file no longer exists.
    """

    id: str
    start: float
    end: float
    score: float
    seconds: float
    vanished: bool = False


@torch.no_grad()
def search(
    store: FeatureStore | str | Path,
    text: str,
    k: int = 5,
    model: VideoTextModel | None = None,
    trust: bool = False,
) -> list[Hit]:
    """Return the k best clips of a store for a sentence, best first.

    Args:
        store: opened, or its folder or address.
        text: the sentence.
        k: number of clips.
        model: whose scores count; without one, query scoring on the backbone that made the store, untrained.
        trust: load that backbone though the store names a repository, a folder or a file of weights.

    Raises:
        StoreError: there is no store, the model's backbone did not make it, or a clip's features are not finite.
        BackboneError: the store's backbone cannot be loaded, or needs ``trust``.
    """
    store = store if isinstance(store, FeatureStore) else FeatureStore(store)
    model = model or default_model(store, trust)
    if model.backbone is not None:
        store.check_backbone(model.backbone)
    query = model.encode_text([text])
    ids = store.ids
    gallery = model.encode_store(store, ids)
    scores = model.similarity(query, gallery)[0]
    if not torch.isfinite(scores).all():
        first = ids[int(torch.isfinite(scores).int().argmin())]
        raise StoreError(
            f"{store.folder}: clip {first!r} has features that are not finite; `videoclip store verify` lists such "
            "clips, and `videoclip store merge --skip-damaged` leaves them out."
        )
    best = scores.topk(min(k, len(scores))).indices
    found = gallery[best]
    cosines = torch.nn.functional.cosine_similarity(query.sentence[:, None], found.source, dim=-1)
    moments = found.seconds.gather(1, cosines.masked_fill(~found.mask, -2).argmax(1, keepdim=True))[:, 0]
    vanished = set(store.vanished)
    hits = [_hit(ids[i], found, n, scores[i], moments[n]) for n, i in enumerate(best.tolist())]
    return [replace(hit, vanished=hit.id in vanished) for hit in hits]


def default_model(store: FeatureStore, trust: bool = False) -> VideoTextModel:
    """Build query scoring on the backbone that made a store, without anything trained, over all cached frames.

    Raises:
        BackboneError: the store names a backbone that needs ``trust``, or that cannot be loaded.
    """
    longest = store.describe()["frames"]["most"]
    model = create_model(store.open_backbone(trust), similarity="query_scoring", frames=max(1, longest))
    return model.eval()


def _hit(clip_id: str, found: VideoFeatures, number: int, score: torch.Tensor, moment: torch.Tensor) -> Hit:
    seconds = found.seconds[number][found.mask[number]]
    return Hit(clip_id, float(seconds[0]), float(seconds[-1]), float(score), float(moment))
