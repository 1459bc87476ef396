from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from videoclip.video import sampling

counts = st.integers(1, 400)
wanted = st.integers(1, 64)
gaps = st.lists(st.floats(1e-3, 2.0), min_size=0, max_size=60)


def check(sampled: sampling.Sampled, count: int, frames: int) -> None:
    assert len(sampled.indices) == len(sampled.mask) == frames
    assert (np.diff(sampled.indices) >= 0).all()
    assert sampled.indices.min() >= 0 and sampled.indices.max() < count
    assert sampled.mask.sum() == min(count, frames) and sampled.mask[: sampled.mask.sum()].all()


@given(counts, wanted)
def test_uniform_is_the_middle_of_equal_segments(count: int, frames: int) -> None:
    sampled = sampling.uniform(count, frames)
    check(sampled, count, frames)
    if count > frames:
        middles = [int((i + 0.5) * count / frames + 1e-9) for i in range(frames)]
        assert sampled.indices.tolist() == middles


@given(counts, wanted, st.integers(0, 10))
def test_random_stays_in_its_segments(count: int, frames: int, seed: int) -> None:
    sampled = sampling.random_in_segments(count, frames, np.random.default_rng(seed))
    check(sampled, count, frames)
    if count > frames:
        low = np.arange(frames) * count / frames
        assert (sampled.indices >= np.floor(low)).all() and (sampled.indices <= low + count / frames).all()


@given(gaps, wanted)
def test_any_spacing_gives_the_agreed_count(gaps: list[float], frames: int) -> None:
    times = np.cumsum([0.5, *gaps])
    check(sampling.uniform(times, frames), len(times), frames)
    check(sampling.random_in_segments(times, frames, np.random.default_rng(0)), len(times), frames)


@given(counts, wanted, st.integers(1, 16), st.one_of(st.none(), st.integers(0, 10)))
def test_dense_is_evenly_spaced(count: int, frames: int, stride: int, seed: int | None) -> None:
    generator = None if seed is None else np.random.default_rng(seed)
    sampled = sampling.dense(count, frames, stride, generator)
    assert len(sampled.indices) == frames and sampled.indices.max() < count
    assert set(np.diff(sampled.real)) <= {stride}
    if count > (frames - 1) * stride:
        assert sampled.mask.all()


@given(st.integers(2, 300), st.floats(5, 60), st.floats(0.2, 10))
def test_fixed_rate_keeps_its_distance(count: int, rate: float, fps: float) -> None:
    times = np.arange(count) / rate
    sampled = sampling.fixed_rate(times, fps)
    assert sampled.mask.all() and (np.diff(sampled.indices) > 0).all() and sampled.indices[0] == 0
    if fps <= rate:
        wishes = np.arange(len(sampled.indices)) / fps
        assert np.abs(times[sampled.indices] - wishes).max() <= 0.5 / rate + 1e-6


@given(st.integers(1, 500), st.floats(1, 120), wanted, st.integers(1, 5))
def test_clip4clip_never_leaves_the_file(count: int, fps: float, frames: int, rate: int) -> None:
    for keep in ("first", "last", "spread"):
        sampled = sampling.clip4clip(count, fps, frames, rate, keep=keep)  # type: ignore[arg-type]
        assert len(sampled.indices) == frames and sampled.indices.max() < count


def test_uniform_follows_time_not_index() -> None:
    """A slow first half: one frame a second; then ten frames in the last second."""
    times = np.concatenate([np.arange(10), 9 + np.arange(1, 11) / 10])
    sampled = sampling.uniform(times, 5)
    assert times[sampled.indices].tolist() == pytest.approx([1, 3, 5, 7, 9], abs=0.6)


def test_nearest_is_within_half_a_gap() -> None:
    times = np.array([0, 0.1, 0.5, 2.0, 2.1])
    wishes = np.linspace(0, 2.1, 50)
    chosen = times[sampling.nearest(times, wishes)]
    best = np.abs(times[None] - wishes[:, None]).min(1)
    assert np.allclose(np.abs(chosen - wishes), best)


def test_reversing_a_clip_mirrors_the_choice() -> None:
    for count in (12, 36, 60):
        indices = sampling.uniform(count, 12).indices
        assert (count - 1 - indices[::-1]).tolist() == indices.tolist()


@pytest.mark.parametrize("call", [lambda: sampling.uniform(0, 3), lambda: sampling.uniform(5, 0)])
def test_impossible_wishes_are_refused(call: object) -> None:
    with pytest.raises(ValueError, match="frame"):
        call()  # type: ignore[operator]


def test_fixed_rate_refuses_zero() -> None:
    with pytest.raises(ValueError, match="fps"):
        sampling.fixed_rate(5, 0)
