"""The cost of a module: counted operations against numbers known by hand, memory against a module that wastes it."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import Tensor

from videoclip.compare.cost import in_fresh_process, made_up, measure, multiply_adds, time_and_memory
from videoclip.config import ModelConfig
from videoclip.features import TextFeatures, VideoFeatures
from videoclip.registry import components, create
from videoclip.similarity import Similarity

HALF_GIB = 2**27  # numbers of four bytes


def test_multiply_adds_are_those_counted_by_hand() -> None:
    """Products of sentences with pooled videos, and an LSTM's four gates of twice D x D."""
    count = multiply_adds(create("temporal", "none", width=64), create("similarity", "mean", width=64), 12, 64, 8)
    assert count == 1000 * 1000 * 64
    lstm = multiply_adds(create("temporal", "lstm", width=64), create("similarity", "mean", width=64), 12, 64, 8)
    assert lstm - count == pytest.approx(1000 * 12 * 8 * 64 * 64, rel=0.01)


@pytest.mark.slow
def test_a_measurement_tells_parameters_and_time() -> None:
    cost = measure(ModelConfig.model_validate({"temporal": "lstm", "similarity": "tokens", "frames": 4}), 32, words=8)
    assert cost.parameters == 8 * 32 * 32 + 8 * 32 + 2 * (32 * 32 + 32 + 32 + 1)
    assert cost.milliseconds > 0 and cost.texts_timed == 1000 and 0 <= cost.mib < 512


class Wasteful(Similarity):
    """Fills half a GiB for every call."""

    def score(self, text: TextFeatures, video: VideoFeatures) -> Tensor:
        return torch.ones(HALF_GIB).sum() * text.sentence @ video.frames[:, 0].T


def growth() -> float:
    text, video = made_up(10, 10, 2, 8, 4)
    return time_and_memory(lambda part: Wasteful()(part, video), text)[1]


@pytest.mark.slow
def test_memory_is_seen_below_a_parent_that_took_more() -> None:
    torch.ones(3 * HALF_GIB).sum()
    assert 500 < in_fresh_process(growth) < 700


SIMILARITIES = [name for name in components("similarity") if name != "cross"]


@pytest.fixture(scope="module")
def of_a_thousand() -> dict[str, float]:
    """Measure the memory of each similarity, two at a time because each takes a process that imports torch."""

    def mib(name: str) -> float:
        return measure(ModelConfig.model_validate({"similarity": name, "frames": 12}), 64, words=8).mib

    with ThreadPoolExecutor(2) as pool:
        return dict(zip(SIMILARITIES, pool.map(mib, SIMILARITIES), strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("name", SIMILARITIES)
def test_a_thousand_by_a_thousand_stays_small(name: str, of_a_thousand: dict[str, float]) -> None:
    """The bound is memory of 2 GiB at 12 x 512; here a width of 64 and 8 words, and a bound to match."""
    assert of_a_thousand[name] < 512
