from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from videoclip.errors import DataError
from videoclip.metrics import best_caption_scores, bootstrap_interval, retrieval_metrics, text_to_video_ranks


def naive_ranks(scores: np.ndarray, owner: list[int]) -> list[float]:
    """Sort, then average the places of everything that scores the same as the answer."""
    ranks = []
    for row, own in zip(scores, owner, strict=True):
        ordered = sorted(row, reverse=True)
        ranks.append(float(np.mean([place for place, value in enumerate(ordered, 1) if value == row[own]])))
    return ranks


@settings(deadline=None)
@given(st.integers(1, 9), st.integers(1, 6), st.integers(1, 4), st.integers(0, 1000), st.integers(1, 20))
def test_ranks_equal_a_naive_sort(texts: int, videos: int, levels: int, seed: int, chunk: int) -> None:
    generator = np.random.default_rng(seed)
    scores = generator.integers(levels, size=(texts, videos)).astype(np.float32)
    owner = generator.integers(videos, size=texts)
    ranks, tied = text_to_video_ranks(torch.from_numpy(scores), torch.from_numpy(owner), chunk)
    assert ranks.tolist() == naive_ranks(scores, owner.tolist())
    assert tied.tolist() == [(row == row[own]).sum() > 1 for row, own in zip(scores, owner, strict=True)]


def test_a_constant_matrix_is_chance_not_perfection() -> None:
    metrics = retrieval_metrics(np.zeros((100, 100)), list(range(100)))
    assert metrics["text_to_video/mean_rank"] == 50.5 and metrics["text_to_video/R@1"] == 0
    assert metrics["text_to_video/tied"] == metrics["video_to_text/tied"] == 100


def test_directions_on_an_asymmetric_matrix() -> None:
    scores = [[0.9, 0.8], [0.7, 0.6]]  # both texts like video 0 best; both videos like text 0 best
    metrics = retrieval_metrics(np.array(scores), [0, 1])
    assert metrics["text_to_video/R@1"] == 50 and metrics["video_to_text/R@1"] == 50
    scores = [[0.9, 0.1], [0.8, 0.7]]
    metrics = retrieval_metrics(np.array(scores), [0, 1])
    assert metrics["text_to_video/R@1"] == 50 and metrics["video_to_text/R@1"] == 100


def test_several_captions_by_hand() -> None:
    """Three videos, seven captions; video to text takes each video's best caption."""
    owner = [0, 0, 1, 1, 1, 2, 2]
    scores = torch.tensor(
        [[9, 1, 1], [2, 8, 1], [1, 5, 6], [1, 7, 1], [3, 2, 1], [1, 1, 4], [5, 1, 3]], dtype=torch.float32
    )
    ranks, _ = text_to_video_ranks(scores, torch.tensor(owner))
    assert ranks.tolist() == [1, 2, 2, 1, 2, 1, 2]
    assert best_caption_scores(scores, torch.tensor(owner), 3).tolist() == [[9, 3, 5], [8, 7, 1], [1, 6, 4]]
    metrics = retrieval_metrics(scores, owner)
    assert metrics["text_to_video/R@1"] == pytest.approx(300 / 7)
    assert metrics["video_to_text/R@1"] == pytest.approx(100 / 3)
    assert metrics["video_to_text/mean_rank"] == pytest.approx(5 / 3)


@pytest.mark.parametrize(
    ("scores", "owner", "message"),
    [
        (np.zeros((2, 2)), [0], "one entry of video_of_text per text"),
        (np.zeros((2, 2)), [0, 2], "outside 0..1"),
        (np.zeros((2, 2)), [0, 0], "1 of 2 videos have no text"),
        (np.full((2, 2), np.nan), [0, 1], "NaN"),
    ],
)
def test_wrong_input_is_told(scores: np.ndarray, owner: list[int], message: str) -> None:
    with pytest.raises(DataError, match=message):
        retrieval_metrics(scores, owner)


def test_bootstrap_covers_the_mean_and_shrinks() -> None:
    generator = np.random.default_rng(0)
    small, large = (100.0 * (generator.random(n) < 0.3) for n in (50, 5000))
    low, high = bootstrap_interval(small)
    assert low < small.mean() < high
    narrow = bootstrap_interval(large)
    assert narrow[1] - narrow[0] < (high - low) / 5
    assert bootstrap_interval(small) == bootstrap_interval(small)
