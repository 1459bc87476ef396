"""Every contrastive loss against a loop over pairs in plain Python, and the laws they share."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from videoclip.loss import Pairs, geodesic_mixup
from videoclip.registry import components, create

SCALE = 7.0


def log_sum(values: list[float]) -> float:
    return math.log(sum(math.exp(v) for v in values))


# One row: its logits, and which of them are right, and which take part at all.
Row = Callable[[list[float], list[bool], list[bool]], float]


def cross_entropy(row: list[float], right: list[bool], counts: list[bool]) -> float:
    norm = log_sum([v for v, c in zip(row, counts, strict=True) if c])
    return sum(norm - v for v, r in zip(row, right, strict=True) if r) / sum(right)


def sigmoid(row: list[float], right: list[bool], counts: list[bool]) -> float:
    signs = [(v - 10) if r else -(v - 10) for v, r in zip(row, right, strict=True)]
    return sum(math.log(1 + math.exp(-s)) for s, c in zip(signs, counts, strict=True) if c)


def infoloob(row: list[float], right: list[bool], counts: list[bool]) -> float:
    rivals = [v for v, r, c in zip(row, right, counts, strict=True) if c and not r]
    own = sum(v for v, r in zip(row, right, strict=True) if r) / sum(right)
    return (log_sum(rivals) - own) / SCALE if rivals else 0.0


def label_kl(row: list[float], right: list[bool], counts: list[bool]) -> float:
    kept = [(v, 10.0 * r) for v, r, c in zip(row, right, counts, strict=True) if c]
    norm, norm_target = log_sum([v for v, _ in kept]), log_sum([t for _, t in kept])
    return sum(math.exp(t - norm_target) * ((t - norm_target) - (v - norm)) for v, t in kept)


def mpm_nce(row: list[float], right: list[bool], counts: list[bool]) -> float:
    moved = [v if r else v + 0.05 * SCALE for v, r in zip(row, right, strict=True)]
    return cross_entropy(moved, right, counts)


def hard_negative(row: list[float], right: list[bool], counts: list[bool]) -> float:
    rivals = [v for v, r, c in zip(row, right, counts, strict=True) if c and not r]
    total = sum(math.exp(0.25 * v) for v in rivals)
    weighted = sum(math.exp(v) * len(rivals) * math.exp(0.25 * v) / total for v in rivals)
    own = [v for v, r in zip(row, right, strict=True) if r]
    return sum(math.log(math.exp(v) + weighted) - v for v in own) / len(own)


ROWS: dict[str, Row] = {
    "cross_entropy": cross_entropy,
    "sigmoid": sigmoid,
    "infoloob": infoloob,
    "label_kl": label_kl,
    "mpm_nce": mpm_nce,
    "hard_negative": hard_negative,
}


def by_hand(name: str, logits: torch.Tensor, same: torch.Tensor, as_positives: bool) -> float:
    own = torch.eye(len(logits), dtype=torch.bool)
    right = own | same if as_positives else own
    counts = right | ~same
    total = 0.0
    if name == "joint_softmax":
        for i in range(len(logits)):
            rivals = [m[i, j].item() for m in (logits, logits.T) for j in range(len(logits)) if counts[i, j]]
            mine = [logits[i, j].item() for j in range(len(logits)) if right[i, j]]
            total += log_sum(rivals) - sum(mine) / len(mine)
        return total / len(logits)
    for matrix in (logits, logits.T):
        for i, row in enumerate(matrix.tolist()):
            if name == "dual_softmax":
                columns = [
                    log_sum([matrix[r, j].item() / 1000 for r in range(len(row)) if counts[r, j]])
                    for j in range(len(row))
                ]
                weighted = [v * math.exp(v / 1000 - columns[j]) * int(counts[:, j].sum()) for j, v in enumerate(row)]
                total += cross_entropy(weighted, right[i].tolist(), counts[i].tolist())
            else:
                total += ROWS[name](row, right[i].tolist(), counts[i].tolist())
    return total / (2 * len(logits))


@settings(deadline=None, max_examples=30)
@given(st.sampled_from(sorted(components("loss"))), st.integers(1, 5), st.booleans(), st.integers(0, 1000))
def test_equals_a_loop(name: str, count: int, as_positives: bool, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(count, count, generator=generator, dtype=torch.float64) * 3
    ids = torch.randint(3, (count,), generator=generator)
    same = (ids[:, None] == ids) & ~torch.eye(count, dtype=torch.bool)
    found = create("loss", name).double()(Pairs.of(logits, same, as_positives, SCALE))
    assert found.item() == pytest.approx(by_hand(name, logits, same, as_positives), abs=1e-9)


@pytest.mark.parametrize("name", components("loss"))
def test_what_belongs_together_is_not_pushed_apart(name: str) -> None:
    same = torch.tensor([[0, 1, 0], [1, 0, 0], [0, 0, 0]], dtype=torch.bool)
    for as_positives in (False, True):
        logits = torch.zeros(3, 3, requires_grad=True)
        create("loss", name)(Pairs.of(logits, same, as_positives)).backward()
        assert logits.grad is not None and torch.isfinite(logits.grad).all()
        assert logits.grad[0, 2] > 0 and logits.grad[2, 1] > 0 and logits.grad[0, 0] < 0
        # Dual softmax and targets that are shared evenly may hold a positive where it is, none may push it away.
        assert logits.grad[0, 1] <= 1e-7 and logits.grad[1, 0] <= 1e-7


@pytest.mark.parametrize("name", components("loss"))
def test_further_negatives_of_texts_raise_the_loss_and_are_pushed_away(name: str) -> None:
    logits, extra = torch.eye(3) * 2, torch.zeros(3, 2, requires_grad=True)
    loss = create("loss", name)
    found = loss(Pairs.of(logits, text_negatives=extra))
    assert found > loss(Pairs.of(logits))
    found.backward()
    assert extra.grad is not None and (extra.grad > 0).all()


@pytest.mark.parametrize("name", components("loss"))
def test_extreme_logits_give_finite_gradients(name: str) -> None:
    logits = torch.tensor([[100.0, -100], [100, 100]], requires_grad=True)
    create("loss", name)(Pairs.of(logits, scale=100.0)).backward()
    assert logits.grad is not None and torch.isfinite(logits.grad).all()
    alone = torch.ones(1, 1, requires_grad=True)
    create("loss", name)(Pairs.of(alone)).backward()
    assert alone.grad is not None and torch.isfinite(alone.grad).all()


def test_hardness_zero_is_clips_loss() -> None:
    logits = torch.randn(5, 5)
    plain, weighted = create("loss", "cross_entropy"), create("loss", "hard_negative", {"hardness": 0.0})
    assert torch.allclose(plain(Pairs.of(logits)), weighted(Pairs.of(logits)), atol=1e-6)


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_geodesic_mixup_equals_a_loop(share: float) -> None:
    generator = torch.Generator().manual_seed(0)
    text, video = (torch.nn.functional.normalize(torch.randn(4, 8, generator=generator).double(), dim=-1) for _ in "tv")
    same = torch.zeros(4, 4, dtype=torch.bool)
    same[0, 1] = same[1, 0] = True
    total = 0.0
    mixed = []
    for t, v in zip(text, video, strict=True):
        angle = math.acos(float(t @ v))
        point = (math.sin(share * angle) * v + math.sin((1 - share) * angle) * t) / math.sin(angle)
        assert float(point.norm()) == pytest.approx(1)
        mixed.append(point)
    for side in (video, text):
        for i in range(4):
            row = [float(text[i] @ video[i]) if j == i else float(side[i] @ mixed[j]) for j in range(4)]
            kept = [value / 0.07 for j, value in enumerate(row) if not same[i, j]]
            total += (log_sum(kept) - row[i] / 0.07) / 4
    assert float(geodesic_mixup(text, video, share, same)) == pytest.approx(total, abs=1e-4)


def test_mixup_of_equal_and_opposite_vectors_is_finite() -> None:
    text = torch.eye(3, requires_grad=True)
    for video in (torch.eye(3), -torch.eye(3)):
        loss = geodesic_mixup(text, video, 0.4, torch.zeros(3, 3, dtype=torch.bool))
        loss.backward()
        assert torch.isfinite(loss) and text.grad is not None and torch.isfinite(text.grad).all()
