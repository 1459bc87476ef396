from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from videoclip.errors import DataError
from videoclip.metrics import bootstrap_interval, graded_metrics, retrieval_metrics, verdict
from videoclip.metrics.ranks import Scores, best_captions, rank


def place(value: float, rivals: list[float]) -> float:
    """Sort, then average the places of everything that scores the same."""
    ordered = sorted([value, *rivals], reverse=True)
    return float(np.mean([number for number, other in enumerate(ordered, 1) if other == value]))


def naive_ranks(scores: np.ndarray, owner: list[int], rule: str) -> tuple[list[float], list[float]]:
    videos = scores.shape[1]
    text = [place(row[own], [s for v, s in enumerate(row) if v != own]) for row, own in zip(scores, owner, strict=True)]
    video = []
    for v in range(videos):
        own = max(scores[t, v] for t, o in enumerate(owner) if o == v)
        if rule == "all_captions":
            rivals = [scores[t, v] for t, o in enumerate(owner) if o != v]
        else:
            rivals = [max(scores[t, v] for t, o in enumerate(owner) if o == w) for w in range(videos) if w != v]
        video.append(place(own, rivals))
    return text, video


@st.composite
def matrices(draw: st.DrawFn) -> tuple[np.ndarray, list[int]]:
    """Integer scores with many ties; every video has a caption, some have several, in any order."""
    videos, extra = draw(st.integers(1, 6)), draw(st.integers(0, 8))
    generator = np.random.default_rng(draw(st.integers(0, 2**16)))
    owner = generator.permutation(np.concatenate([np.arange(videos), generator.integers(videos, size=extra)]))
    levels = draw(st.sampled_from([1, 2, 3, 50]))
    return generator.integers(levels, size=(len(owner), videos)).astype(np.float32), owner.tolist()


@settings(deadline=None, max_examples=200)
@given(matrices(), st.sampled_from(["best_caption", "all_captions"]))
def test_ranks_equal_a_naive_sort_for_every_chunk(case: tuple[np.ndarray, list[int]], rule: str) -> None:
    scores, owner = case
    text, video = naive_ranks(scores, owner, rule)
    everything = []
    for chunk in (1, 7, 1000):
        found = rank(Scores.of(torch.from_numpy(scores), torch.tensor(owner), chunk), rule)  # type: ignore[arg-type]
        assert found.video is not None
        assert found.text.tolist() == text and found.video.tolist() == video
        assert found.text_tied.tolist() == [(r == r[o]).sum() > 1 for r, o in zip(scores, owner, strict=True)]
        everything.append(retrieval_metrics(scores, owner, rule, chunk=chunk))  # type: ignore[arg-type]
    assert everything[0] == everything[1] == everything[2]
    for k in (1, 5, 10):
        assert everything[0][f"text_to_video/R@{k}"] == pytest.approx(100 * np.mean([r <= k for r in text]))
        assert everything[0][f"video_to_text/R@{k}"] == pytest.approx(100 * np.mean([r <= k for r in video]))
    assert everything[0]["video_to_text/mean_rank"] == pytest.approx(np.mean(video))


@settings(deadline=None, max_examples=50)
@given(matrices(), st.integers(2, 4))
def test_processes_that_share_the_rows_count_the_same(case: tuple[np.ndarray, list[int]], processes: int) -> None:
    scores, owner = torch.from_numpy(case[0]), torch.tensor(case[1])
    shares = [Scores(lambda i: scores[i], owner, scores.shape[1], 2, (p, processes)) for p in range(processes)]
    seen = sorted(int(i) for share in shares for index, _ in share.chunks() for i in index)
    assert seen == list(range(len(owner)))
    whole, parts = rank(Scores.of(scores, owner)), [rank(share, None) for share in shares]
    assert (torch.stack([p.text - 1 for p in parts]).sum(0) + 1).tolist() == whole.text.tolist()
    tops = [share.top(2) for share in shares]
    columns, values = Scores.of(scores, owner).top(2)
    assert torch.equal(sum(t[0] for t in tops), columns) and torch.equal(sum(t[1] for t in tops), values)


def test_rows_are_computed_once_while_they_fit_and_again_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    matrix, owner, asked = torch.rand(40, 10), torch.arange(10).repeat(4), []

    def rows(index: torch.Tensor) -> torch.Tensor:
        asked.append(len(index))
        return matrix[index]

    expected = rank(Scores.of(matrix, owner))
    for limit, times in ((2**30, 1), (0, 2)):
        asked.clear()
        monkeypatch.setattr("videoclip.metrics.ranks.REMEMBERED_BYTES", limit)
        found = rank(Scores(rows, owner, 10, 8))
        assert sum(asked) == times * 40 and max(asked) <= 8
        assert found.video is not None and expected.video is not None
        assert torch.equal(found.text, expected.text) and torch.equal(found.video, expected.video)


def test_a_constant_matrix_is_chance_not_perfection() -> None:
    for rule in ("best_caption", "all_captions"):
        metrics = retrieval_metrics(np.zeros((100, 100)), list(range(100)), rule)  # type: ignore[arg-type]
        for direction in ("text_to_video", "video_to_text"):
            assert metrics[f"{direction}/mean_rank"] == 50.5 and metrics[f"{direction}/R@1"] == 0
            assert metrics[f"{direction}/tied"] == 100


def test_directions_on_an_asymmetric_matrix() -> None:
    scores = [[0.9, 0.8], [0.7, 0.6]]  # both texts like video 0 best; both videos like text 0 best
    metrics = retrieval_metrics(np.array(scores), [0, 1])
    assert metrics["text_to_video/R@1"] == 50 and metrics["video_to_text/R@1"] == 50
    scores = [[0.9, 0.1], [0.8, 0.7]]
    metrics = retrieval_metrics(np.array(scores), [0, 1])
    assert metrics["text_to_video/R@1"] == 50 and metrics["video_to_text/R@1"] == 100


def test_several_captions_by_hand() -> None:
    """Three videos, seven captions; under each rule for video to text."""
    owner = [0, 0, 1, 1, 1, 2, 2]
    scores = torch.tensor(
        [[9, 1, 1], [2, 8, 1], [1, 5, 6], [1, 7, 1], [3, 2, 1], [1, 1, 4], [5, 1, 3]], dtype=torch.float32
    )
    assert rank(Scores.of(scores, torch.tensor(owner))).text.tolist() == [1, 2, 2, 1, 2, 1, 2]
    videos, best = best_captions(scores, torch.tensor(owner))
    assert videos.tolist() == [0, 1, 2] and best.T.tolist() == [[9, 3, 5], [8, 7, 1], [1, 6, 4]]
    metrics = retrieval_metrics(scores, owner)
    assert metrics["text_to_video/R@1"] == pytest.approx(300 / 7)
    assert metrics["video_to_text/R@1"] == pytest.approx(100 / 3)
    assert metrics["video_to_text/mean_rank"] == pytest.approx(5 / 3)
    # Every caption counts: video 0 has the best of all; video 1's 7 is beaten by 8; video 2's 4 by 6.
    every = rank(Scores.of(scores, torch.tensor(owner)), "all_captions")
    assert every.video is not None and every.video.tolist() == [1, 2, 2]
    scores[3:5, 2] = 5  # two more captions of video 1 before video 2's own: two places under this rule alone
    every, best_only = (rank(Scores.of(scores, torch.tensor(owner)), r) for r in ("all_captions", "best_caption"))
    assert every.video is not None and best_only.video is not None
    assert every.video.tolist() == [1, 2, 4] and best_only.video.tolist() == [1, 2, 2]


def test_texts_alone_may_leave_videos_without_captions() -> None:
    metrics = retrieval_metrics(np.array([[1.0, 2.0, 0.0]]), [1], video_to_text=None)
    assert metrics["text_to_video/R@1"] == 100 and not any(k.startswith("video_to_text") for k in metrics)


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 5), st.integers(1, 3), st.integers(0, 1000))
def test_ndcg_and_map_are_means_over_the_orders_that_ties_allow(items: int, levels: int, seed: int) -> None:
    generator = np.random.default_rng(seed)
    scores, gains = generator.integers(levels, size=items), generator.integers(3, size=items)
    if not gains.any():
        gains[0] = 1
    discount = 1 / np.log2(np.arange(2, items + 2))
    found = []
    for order in itertools.permutations(range(items)):
        ordered = list(order)
        if (np.diff(scores[ordered]) <= 0).all():
            hits = np.flatnonzero(gains[ordered] > 0) + 1
            precision = np.mean([(n + 1) / place for n, place in enumerate(hits)])
            found.append((gains[ordered] @ discount / (np.sort(gains)[::-1] @ discount), precision))
    mine = graded_metrics(torch.from_numpy(scores)[None], torch.from_numpy(gains)[None])
    assert [mine["nDCG"], mine["mAP"]] == pytest.approx((100 * np.mean(found, 0)).tolist())


def test_graded_relevance_in_both_directions() -> None:
    scores, relevance = np.array([[3.0, 2.0], [1.0, 4.0]]), np.array([[0.5, 1.0], [0.0, 1.0]])
    metrics = retrieval_metrics(scores, [0, 1], relevance=relevance)
    assert metrics["text_to_video/nDCG"] < 100 and metrics["text_to_video/mAP"] == 100
    assert metrics["video_to_text/mAP"] == 100
    with pytest.raises(DataError, match=r"\(texts, videos\) = \(2, 2\); it is float64 \(2, 1\)"):
        retrieval_metrics(scores, [0, 1], relevance=np.zeros((2, 1)))


@pytest.mark.parametrize(
    ("scores", "owner", "message"),
    [
        (np.zeros((2, 2)), [0], "one entry of video_of_text per text"),
        (np.zeros((0, 2)), [], "one entry of video_of_text per text"),
        (np.zeros((2, 2)), [0, 2], "outside 0..1"),
        (np.zeros((2, 2)), [0, 0], "1 of 2 videos have no text"),
        (np.full((2, 2), np.nan), [0, 1], "NaN"),
    ],
)
def test_wrong_input_is_told(scores: np.ndarray, owner: list[int], message: str) -> None:
    with pytest.raises(DataError, match=message):
        retrieval_metrics(scores, owner)


def test_real_scores_of_a_trained_model(shared_features: np.ndarray) -> None:
    """Against a naive count, in single precision and in bf16, whose ties are reported."""
    whole = retrieval_metrics(shared_features, range(len(shared_features)))
    assert (whole["text_to_video/R@1"], whole["text_to_video/R@10"]) == (59.0, 88.75)
    assert (whole["video_to_text/R@1"], whole["video_to_text/mean_rank"]) == (55.0, 5.3025)
    half = torch.from_numpy(shared_features).bfloat16()
    text, video = naive_ranks(half.float().numpy(), list(range(len(half))), "best_caption")
    found = retrieval_metrics(half, range(len(half)))
    assert found["text_to_video/R@1"] == 100 * np.mean([r <= 1 for r in text])
    assert found["text_to_video/mean_rank"] == np.mean(text) and found["video_to_text/mean_rank"] == np.mean(video)
    assert found["text_to_video/tied"] > whole["text_to_video/tied"] == 0


def test_bootstrap_covers_the_mean_and_shrinks() -> None:
    generator = np.random.default_rng(0)
    small, large = (100.0 * (generator.random(n) < 0.3) for n in (50, 5000))
    low, high = bootstrap_interval(small)
    assert low < small.mean() < high
    narrow = bootstrap_interval(large)
    assert narrow[1] - narrow[0] < (high - low) / 5
    assert bootstrap_interval(small) == bootstrap_interval(small)


@pytest.mark.parametrize(
    ("interval", "expected"),
    [((0.1, 2), "better"), ((-2, -0.1), "worse"), ((-1, 1), "cannot tell"), ((0, 0), "cannot tell")],
)
def test_verdicts(interval: tuple[float, float], expected: str) -> None:
    assert verdict(interval) == expected
