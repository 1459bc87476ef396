"""CLIP for video: cache frame features once, train temporal modules on them, search, re-rank and evaluate.

The names below are loaded when they are first used: ``import videoclip`` alone imports no torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from videoclip.config import Component
    from videoclip.features import TextFeatures, VideoFeatures
    from videoclip.metrics import retrieval_metrics
    from videoclip.model import VideoTextModel, create_model, load_model
    from videoclip.retrieval.search import search
    from videoclip.store import FeatureStore
    from videoclip.store.dataset import StoredClips
    from videoclip.store.extract import cache_features

_HOMES = {
    "Component": "videoclip.config",
    "FeatureStore": "videoclip.store",
    "StoredClips": "videoclip.store.dataset",
    "TextFeatures": "videoclip.features",
    "VideoFeatures": "videoclip.features",
    "VideoTextModel": "videoclip.model",
    "cache_features": "videoclip.store.extract",
    "create_model": "videoclip.model",
    "load_model": "videoclip.model",
    "retrieval_metrics": "videoclip.metrics",
    "search": "videoclip.retrieval.search",
}

__all__ = [
    "Component",
    "FeatureStore",
    "StoredClips",
    "TextFeatures",
    "VideoFeatures",
    "VideoTextModel",
    "cache_features",
    "create_model",
    "list_classifier",
    "list_loss",
    "list_similarity",
    "list_temporal",
    "list_tuning",
    "load_model",
    "retrieval_metrics",
    "search",
]


def list_temporal() -> list[str]:
    """Names of all temporal encoders."""
    return _names("temporal")


def list_similarity() -> list[str]:
    """Names of all similarities."""
    return _names("similarity")


def list_loss() -> list[str]:
    """Names of all contrastive losses."""
    return _names("loss")


def list_classifier() -> list[str]:
    """Names of all classifiers."""
    return _names("classifier")


def list_tuning() -> list[str]:
    """Names of all tunings."""
    return _names("tuning")


def _names(kind: Any) -> list[str]:
    from videoclip.registry import components

    return list(components(kind))


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'videoclip' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return __all__
