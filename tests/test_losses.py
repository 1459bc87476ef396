from __future__ import annotations

import math

import pytest
import torch

from videoclip.losses import symmetric_cross_entropy


def naive(logits: torch.Tensor, ids: list[int]) -> float:
    """A loop over pairs: everything but the pair itself and other pairs of its video is a negative."""
    total = 0.0
    for matrix in (logits.double(), logits.double().T):
        for i in range(len(ids)):
            rivals = [matrix[i, j].item() for j in range(len(ids)) if j == i or ids[j] != ids[i]]
            total += math.log(sum(math.exp(r) for r in rivals)) - matrix[i, i].item()
    return total / (2 * len(ids))


@pytest.mark.parametrize("ids", [[0, 1, 2, 3], [0, 0, 1, 2], [5, 5, 5, 5]])
def test_equals_a_loop(ids: list[int]) -> None:
    logits = torch.randn(4, 4, generator=torch.Generator().manual_seed(0)) * 3
    assert symmetric_cross_entropy(logits, torch.tensor(ids)).item() == pytest.approx(naive(logits, ids), abs=1e-5)


def test_captions_of_one_video_do_not_push_each_other_away() -> None:
    logits = torch.zeros(3, 3, requires_grad=True)
    symmetric_cross_entropy(logits, torch.tensor([7, 7, 1])).backward()
    assert logits.grad is not None
    assert logits.grad[0, 1] == logits.grad[1, 0] == 0 and (logits.grad[0, 2], logits.grad[2, 0]) > (0, 0)


def test_without_ids_every_pair_is_its_own() -> None:
    logits = torch.randn(5, 5)
    assert torch.equal(symmetric_cross_entropy(logits), symmetric_cross_entropy(logits, torch.arange(5)))


def test_more_negatives_for_texts_join_their_rows_only() -> None:
    logits, extra = torch.randn(3, 3), torch.randn(3, 2)
    rows = torch.nn.functional.cross_entropy(torch.cat([logits, extra], 1), torch.arange(3))
    columns = torch.nn.functional.cross_entropy(logits.T, torch.arange(3))
    assert torch.allclose(symmetric_cross_entropy(logits, text_negatives=extra), (rows + columns) / 2)
