"""What classifiers share, against plain loops."""

from __future__ import annotations

import importlib.util
import sys
from itertools import pairwise
from pathlib import Path
from types import ModuleType

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from videoclip.classifier.parts.learning import Schedule, epochs_by_shots, leaf, learn
from videoclip.classifier.parts.pseudo import _conjugate_gradient, boards, most_confident, propagated
from videoclip.classifier.parts.search import first_best, inclusive, right_along, steps
from videoclip.layers import unit

SEEDS = st.integers(0, 10_000)


def numbers(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@given(seed=SEEDS, sizes=st.tuples(st.integers(1, 4), st.integers(1, 4), st.integers(1, 3)))
def test_the_first_best_is_what_a_loop_with_strict_increase_finds(seed: int, sizes: tuple[int, int, int]) -> None:
    grid = {name: [float(n) for n in range(size)] for name, size in zip("abc", sizes, strict=True)}
    counts = torch.randint(0, 4, sizes, generator=torch.Generator().manual_seed(seed))
    best, chosen = 0, {"a": -1.0, "b": -1.0, "c": -1.0}
    for a in grid["a"]:
        for b in grid["b"]:
            for c in grid["c"]:
                if counts[int(a), int(b), int(c)] > best:
                    best, chosen = int(counts[int(a), int(b), int(c)]), {"a": a, "b": b, "c": c}
    found = first_best(grid, counts, 7, {"a": -1.0, "b": -1.0, "c": -1.0})
    assert found.values == chosen and found.accuracy == pytest.approx(100 * best / 7)


def test_a_choice_on_the_edge_is_told() -> None:
    found = first_best({"a": [1, 2, 3], "b": [5]}, torch.tensor([1, 2, 3])[:, None], 3, {})
    assert found.on_edge == ("a",) and found.summary()["grid"]["a"] == {"from": 1.0, "to": 3.0, "points": 3}


@given(seed=SEEDS)
def test_counts_along_a_line(seed: int) -> None:
    base, extra = numbers(seed, 2, 9, 4).unbind(0)
    labels, shares = torch.arange(9) % 4, [0.0, 0.3, 2.0]
    naive = [sum(int((base[n] + s * extra[n]).argmax() == labels[n]) for n in range(9)) for s in shares]
    assert right_along(base, extra, shares, labels).tolist() == naive


def test_grids_leave_their_end_out_or_not() -> None:
    assert steps(0.1, 7, 20)[:2] == pytest.approx([0.1, 0.445]) and max(steps(0.1, 7, 20)) < 7
    assert inclusive(0.5, 3, 20)[0] == 0.5 and inclusive(0.5, 3, 20)[-1] == 3


@pytest.fixture(scope="module")
def bench() -> ModuleType:
    path = Path(__file__).parents[2] / "tools" / "bench_classify.py"
    spec = importlib.util.spec_from_file_location("bench_classify", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["bench_classify"] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", ["gda", "tip_adapter, 4000 points", "ape, 80,000 points", "proker, 400 points"])
def test_factored_searches_choose_what_direct_ones_do(bench: ModuleType, name: str) -> None:
    assert bench.same_choice(bench.CASES[name])


@settings(max_examples=30)
@given(seed=SEEDS, count=st.integers(1, 4))
def test_boards_are_stable_whatever_the_order_of_clips(seed: int, count: int) -> None:
    """No clip and class would both rather have each other than what they got."""
    probabilities = (2 * numbers(seed, 10, 3)).softmax(1)
    clips, labels = boards(probabilities, count)
    held = dict(zip(clips.tolist(), labels.tolist(), strict=True))
    assert len(held) == len(clips) == min(10, 3 * count)
    least = [min((float(probabilities[n, k]) for n in held if held[n] == k), default=0.0) for k in range(3)]
    for n in range(10):
        mine = float(probabilities[n, held[n]]) if n in held else 0.0
        assert not any(probabilities[n, k] > mine and probabilities[n, k] > least[k] for k in range(3))
    turn = torch.randperm(10, generator=torch.Generator().manual_seed(seed))
    again, labels = boards(probabilities[turn], count)
    assert {int(turn[n]): k for n, k in zip(again.tolist(), labels.tolist(), strict=True)} == held


def test_the_most_confident_of_each_predicted_class() -> None:
    probabilities = torch.tensor([[0.9, 0.1, 0], [0.6, 0.4, 0], [0.8, 0.2, 0], [0.3, 0.7, 0]])
    clips, labels = most_confident(probabilities, 2)
    assert clips.tolist() == [0, 2, 3] and labels.tolist() == [0, 0, 1]


def test_labels_reach_clips_as_the_exact_solution_says() -> None:
    texts = unit(numbers(0, 4, 12))
    rows = unit(texts[torch.arange(20) % 4] + 0.1 * numbers(1, 20, 12))
    found = propagated(rows, texts, neighbours=6)
    span = torch.linalg.svd(texts.T, full_matrices=False)[0][:, 1:768]
    points = unit(torch.cat([texts, rows]) @ span @ span.T)
    near = (points @ points.T + 1) / 2
    near.fill_diagonal_(-1)
    kept = torch.zeros_like(near).scatter(1, near.topk(6, 1).indices, near.topk(6, 1).values)
    edges = (kept + kept.T) / 2
    scale = edges.sum(1).rsqrt()
    exact = torch.linalg.solve(torch.eye(24) - 0.99 * scale[:, None] * edges * scale, torch.eye(24, 4))[4:]
    assert torch.equal(found.argmax(1), exact.argmax(1)) and len(found.argmax(1).unique()) > 1


def test_conjugate_gradients_solve() -> None:
    matrix = numbers(0, 8, 8)
    matrix = matrix @ matrix.T + torch.eye(8)
    target = numbers(1, 8, 3)
    solved = _conjugate_gradient(lambda z: matrix @ z, target, rounds=40)
    torch.testing.assert_close(matrix @ solved, target, atol=1e-3, rtol=1e-3)


def rates(schedule: Schedule, count: int) -> list[float]:
    """Learning rates of every step: SGD on a gradient of one moves a number by them."""
    number, seen = leaf(torch.zeros(())), [0.0]

    def backward(index: Tensor) -> None:
        seen.append(number.item())
        number.grad = torch.ones(())

    learn([number], backward, count, schedule)
    seen.append(number.item())
    return [a - b for a, b in pairwise(seen[1:])]


def test_schedules() -> None:
    """Momentum is taken out: each step's move is the rate times the sum of 0.9^n."""
    schedule = Schedule(0.1, 4, 2, "sgd", 0.0, rate="epoch")
    moves = rates(schedule, 3)
    expected = [1e-5] * 2 + [0.1] * 2 + [0.05 * (1 + 2**-0.5)] * 2 + [0.05] * 2
    gathered = [sum(0.9**p for p in range(n + 1)) for n in range(8)]
    assert moves == pytest.approx([r * g for r, g in zip(expected, gathered, strict=True)], rel=1e-4)
    assert len(rates(Schedule(0.1, 2, 2, "sgd", drop_last=True), 3)) == 2
    assert len(rates(Schedule(0.1, 2, 4, "sgd", drop_last=True), 3)) == 2
    assert [epochs_by_shots(n, 10) for n in (10, 20, 40, 80)] == [50, 100, 100, 200]


def test_the_best_scored_epoch_is_kept() -> None:
    number, given_scores = leaf(torch.zeros(())), iter([1.0, 3.0, 3.0, 2.0])
    values: list[float] = []

    def score() -> float:
        values.append(number.item())
        return next(given_scores)

    def backward(index: Tensor) -> None:
        number.grad = torch.ones(())

    assert learn([number], backward, 2, Schedule(0.1, 4, 2, "sgd"), score=score) == [1.0, 3.0, 3.0, 2.0]
    assert number.item() == values[1]
