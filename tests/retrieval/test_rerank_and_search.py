from __future__ import annotations

import itertools
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.helpers.numbered import numbered
from videoclip.backbone.openclip import OpenClip
from videoclip.data.manifest import Clip
from videoclip.errors import DataError
from videoclip.retrieval.rerank import mix, rerank
from videoclip.retrieval.search import search
from videoclip.store import FeatureStore
from videoclip.store.extract import cache_features
from videoclip.synthetic.stills import picture
from videoclip.video.clip import FrameChoice
from videoclip.video.encode import write_video

scores = st.lists(st.floats(-50, 50), min_size=1, max_size=20)


@given(scores, st.floats(0, 1))
def test_mixing_by_hand_and_at_its_ends(initial: list[float], weight: float) -> None:
    frames = [value / 7 for value in reversed(initial)]
    raw = mix(initial, frames, weight, "none")
    assert raw == pytest.approx([weight * m + (1 - weight) * s for m, s in zip(initial, frames, strict=True)])
    scaled = mix(initial, frames, 1.0, "minmax")
    order = sorted(range(len(initial)), key=initial.__getitem__)
    assert all(scaled[i] <= scaled[j] for i, j in itertools.pairwise(order))
    assert all(-1e-9 <= value <= 1 + 1e-9 for value in mix(initial, frames, weight, "minmax"))


def test_the_largest_cosine_decides(shapes_store: FeatureStore, tiny: OpenClip) -> None:
    ids = shapes_store.ids[:6]
    run = {"q": [(video, 6.0 - n) for n, video in enumerate(ids)]}
    text = "a small red circle on the left"
    query = tiny.encode_text(tiny.tokenize([text])).sentence
    best = {
        i: float(torch.nn.functional.cosine_similarity(query, shapes_store[i].frames.float(), dim=-1).max())
        for i in ids
    }
    after = rerank(run, {"q": text}, shapes_store, tiny, weight=0.0, scaling="none")["q"]
    assert [v for v, _ in after] == sorted(ids, key=lambda i: -best[i])
    assert [s for _, s in after] == pytest.approx(sorted(best.values(), reverse=True), abs=1e-5)
    kept = rerank(run, {"q": text}, shapes_store, tiny, weight=1.0)["q"]
    assert [v for v, _ in kept] == ids
    half = rerank(run, {"q": text}, shapes_store, tiny, weight=0.4, scaling="none")["q"]
    assert dict(half) == pytest.approx({v: 0.4 * s + 0.6 * best[v] for v, s in run["q"]}, abs=1e-5)


def test_below_the_depth_the_order_stays(shapes_store: FeatureStore, tiny: OpenClip) -> None:
    run = {"q": [(video, -float(n)) for n, video in enumerate([*shapes_store.ids[:5], "not/in/the/store"])]}
    after = rerank(run, {"q": "a ring"}, shapes_store, tiny, depth=3)["q"]
    assert [v for v, _ in after[3:]] == [v for v, _ in run["q"][3:]]
    assert [s for _, s in after] == sorted((s for _, s in after), reverse=True)
    with pytest.raises(DataError, match="1 videos of the run are not in the store.*not/in"):
        rerank(run, {"q": "a ring"}, shapes_store, tiny)
    with pytest.raises(DataError, match="1 of 1 queries of the run have no text"):
        rerank(run, {}, shapes_store, tiny)


def test_search_finds_the_clip_and_the_moment(tmp_path: Path, tiny: OpenClip) -> None:
    """A video whose second half shows a large green square, among others."""
    import numpy as np

    generator = np.random.default_rng(0)

    def shown(colour: str, shape: str) -> np.ndarray:
        return picture(("large", colour, shape, "in the centre"), "white", generator, side=96)

    halves = np.stack([shown("red", "cross")] * 10 + [shown("green", "square")] * 10)
    write_video(tmp_path / "halves.mp4", halves, 10)
    write_video(tmp_path / "other.mp4", np.stack([shown("blue", "ring")] * 20), 10)
    write_video(tmp_path / "bars.mp4", numbered(20, 96, 96), 10)
    clips = [Clip(id=p.name, path=p) for p in sorted(tmp_path.glob("*.mp4"))]
    cache_features(clips, tmp_path / "s", tiny, FrameChoice(fps=5.0), workers=0)
    hits = search(tmp_path / "s", "a large green square in the centre", k=2)
    assert len(hits) == 2 and hits[0].id == "halves.mp4" and hits[0].score > hits[1].score
    assert 1.0 <= hits[0].seconds <= 1.9 and (hits[0].start, hits[0].end) == (0.0, pytest.approx(1.8))
    assert search(tmp_path / "s", "a large red cross in the centre", k=1)[0].seconds < 1.0
    assert len(search(tmp_path / "s", "a", k=50)) == 3
