"""Clips among their neighbours, and texts with cached words."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from videoclip.backbone.openclip import OpenClip
from videoclip.config import TrainConfig
from videoclip.data.manifest import Clip, of_split, read_manifest
from videoclip.errors import CheckpointError
from videoclip.model import create_model
from videoclip.store import FeatureStore
from videoclip.store.dataset import ClipsInContext, TrainingPairs, captions, neighbours
from videoclip.store.extract import Extras, cache_features
from videoclip.training.evaluate import encode_texts, evaluate, runs_live
from videoclip.training.task import ContrastiveTask
from videoclip.video.clip import FrameChoice


def test_neighbours_by_start_with_repeated_borders() -> None:
    starts = [("a", 20.0), ("b", 0.0), ("a", None), ("a", 10.0)]
    clips = [Clip(id=str(n), path=path, start=start) for n, (path, start) in enumerate(starts)]
    assert neighbours(clips, 1) == [[3, 0, 0], [1, 1, 1], [2, 2, 3], [2, 3, 0]]
    assert neighbours(clips, 2)[0] == [2, 3, 0, 0, 0]


@pytest.fixture(scope="module")
def long_video(
    numbered_mp4: Path, tiny: OpenClip, tmp_path_factory: pytest.TempPathFactory
) -> tuple[FeatureStore, list[Clip]]:
    """Six clips of one real file, in no order, with words."""
    clips = [
        Clip(id=f"c{n}", path=numbered_mp4, start=n * 0.6, end=n * 0.6 + 0.5, captions=(f"number {n}", "a bar code"))
        for n in (3, 0, 5, 1, 4, 2)
    ]
    folder = tmp_path_factory.mktemp("long") / "store"
    cache_features(clips, folder, tiny, FrameChoice(frames=4), workers=0, extras=Extras(words=True))
    return FeatureStore(folder), clips


def test_context_is_made_of_mean_frames(long_video: tuple[FeatureStore, list[Clip]]) -> None:
    store, clips = long_video
    features = ClipsInContext(store, clips, 2).__getitems__([0, 1])
    assert features.frames.shape == (2, 5, 128)
    for row, centre in enumerate((3, 0)):
        for place in range(5):
            neighbour = min(max(centre + place - 2, 0), 5)
            torch.testing.assert_close(features.frames[row, place], store[f"c{neighbour}"].frames.float().mean(0))
            assert features.seconds[row, place].item() == pytest.approx(neighbour * 0.6)


def test_a_context_model_trains_and_evaluates_on_neighbours(long_video: tuple[FeatureStore, list[Clip]]) -> None:
    store, clips = long_video
    torch.manual_seed(0)
    model = create_model("tiny", temporal="context", frames=4)
    model.config = model.config.model_copy(update={"context": 2})
    batch = TrainingPairs(store, clips, 4, store, context=2).batch(np.arange(6), 0)
    assert batch.video.frames.shape == (6, 5, 128)
    loss = ContrastiveTask(model, TrainConfig())(batch)
    loss.backward()
    assert loss.isfinite() and model.temporal.positions.grad is not None
    assert evaluate(model, store, clips).metrics["text_to_video/R@5"] > 0
    with pytest.raises(CheckpointError, match="with a manifest"):
        model.encode_video(store)


def test_cached_words_are_the_live_ones(long_video: tuple[FeatureStore, list[Clip]]) -> None:
    """Scores and losses are the same from the store and through the frozen tower, up to half precision on disk."""
    store, clips = long_video
    torch.manual_seed(0)
    model = create_model("tiny", similarity="tokens", frames=4).eval()
    assert not runs_live(model, store)
    cached, live = encode_texts(model, store, captions(clips)), model.encode_text(captions(clips))
    video = model.encode_store(store, [clip.id for clip in clips])
    with torch.no_grad():
        torch.testing.assert_close(model.similarity(cached, video), model.similarity(live, video), atol=2e-3, rtol=0)
    assert model.backbone is not None
    tokens = model.backbone.tokenize(captions(clips))
    pairs = [TrainingPairs(store, clips, 4, store, words=True), TrainingPairs(store, clips, 4, tokens)]
    losses = [ContrastiveTask(model, TrainConfig())(p.batch(np.arange(0, 12, 2), 0)) for p in pairs]
    torch.testing.assert_close(losses[0], losses[1], atol=5e-2, rtol=0)


def test_without_cached_words_the_tower_runs(shapes: Path, shapes_store: FeatureStore) -> None:
    model = create_model("tiny", similarity="mutual", frames=4).eval()
    assert runs_live(model, shapes_store)
    found = evaluate(model, shapes_store, of_split(read_manifest(shapes), "test", shapes))
    assert found.scores.whole().shape == (12, 12) and found.ranks.video is not None and len(found.ranks.video) == 12
