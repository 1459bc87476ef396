"""Stores compared by what they hold."""

from __future__ import annotations

from pathlib import Path

from videoclip.store import FeatureStore
from videoclip.store.transfer import verify


def content(folder: Path) -> dict[str, tuple[bytes, list[float], object]]:
    """Return what a store holds, whatever files it lies in."""
    store = FeatureStore(folder)
    assert verify(store) == []
    return {i: (store[i].frames.numpy().tobytes(), store[i].seconds.tolist(), store[i].notes) for i in store.ids}
