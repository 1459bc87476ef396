"""Corrections against hubs: the recordings are in tests/golden; here what they promise beside them."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from videoclip.metrics.ranks import Scores
from videoclip.retrieval.hubness import dual_softmax, nnn, qb_norm, sinkhorn


def of(matrix: torch.Tensor, chunk: int) -> Scores:
    owner = torch.zeros(len(matrix)).long()
    return Scores(lambda index: matrix[index], owner, matrix.shape[1], list(torch.arange(len(matrix)).split(chunk)))


@settings(deadline=None, max_examples=25)
@given(st.integers(2, 9), st.integers(1, 6), st.sampled_from([1, 2, 7, 1000]), st.integers(0, 1000))
def test_in_parts_equals_whole(texts: int, videos: int, chunk: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    matrix, bank = (torch.rand(n, videos, generator=generator) * 2 - 1 for n in (texts, 11))
    for change in (
        lambda s, b: dual_softmax(s, 0.1),
        lambda s, b: sinkhorn(s, 0.1),
        qb_norm,
        lambda s, b: nnn(s, b, 4),
    ):
        whole = change(of(matrix, 1000), of(bank, 1000)).whole()
        torch.testing.assert_close(change(of(matrix, chunk), of(bank, chunk)).whole(), whole, rtol=1e-6, atol=1e-7)


def test_sinkhorn_makes_every_video_as_likely() -> None:
    matrix = torch.rand(30, 8, generator=torch.Generator().manual_seed(0)) * 2
    matrix[:, 0] += 1  # a hub
    found = sinkhorn(of(matrix, 7), 0.2, iterations=200).whole()
    torch.testing.assert_close(found.softmax(1).sum(0), torch.full((8,), 30 / 8), atol=1e-3, rtol=0)
    assert (matrix.argmax(1) == 0).sum() > 15 and (found.argmax(1) == 0).sum() < 8


def test_dual_softmax_by_hand_and_extreme_scores() -> None:
    matrix = torch.tensor([[1.0, 2.0], [3.0, 4.0], [0.0, -1.0]])
    expected = matrix * (matrix / 0.5).softmax(0)
    torch.testing.assert_close(dual_softmax(of(matrix, 1), 0.5).whole(), expected)
    assert torch.isfinite(dual_softmax(of(1000 * matrix, 2), 0.01).whole()).all()


@pytest.mark.parametrize("chunk", [1, 3])
def test_qb_norm_leaves_rows_alone_whose_best_video_is_no_hub(chunk: int) -> None:
    matrix = torch.tensor([[0.9, 0.1], [0.2, 0.3]])
    bank = torch.tensor([[0.5, 0.1], [0.6, 0.2]])  # video 0 is the hub
    found = qb_norm(of(matrix, chunk), of(bank, chunk)).whole()
    assert torch.equal(found[1], matrix[1])
    torch.testing.assert_close(found[0], (20 * matrix[0]).exp() / (20 * bank).exp().sum(0))
