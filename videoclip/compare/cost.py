"""What a temporal encoder and a similarity cost: parameters, multiply-adds, time and memory on made-up features."""

from __future__ import annotations

import contextlib
import resource
import sys
import time
import warnings
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import TypeVar

import torch
from torch.utils.flop_counter import FlopCounterMode

from videoclip.config import ModelConfig
from videoclip.features import TextFeatures, VideoFeatures
from videoclip.model import build_head
from videoclip.similarity import Similarity
from videoclip.temporal import TemporalEncoder

TEXTS = VIDEOS = 1000
PATIENCE = 20.0  # seconds that scoring may take before it is timed on a part of the texts

T = TypeVar("T")


@dataclass(frozen=True)
class Cost:
    """Of encoding 1000 videos and scoring 1000 texts against them.

    Attributes:
        parameters: of temporal encoder and similarity.
        multiply_adds: of both; of its 1000 videos the temporal encoder makes plain frames of the same number.
        milliseconds: of scoring alone.
        mib: how much scoring alone adds to the memory that the process holds.
        texts_timed: fewer than 1000 where time was scaled up from a part; memory is that part's too.
    """

    parameters: int
    multiply_adds: float
    milliseconds: float
    mib: float
    texts_timed: int


def measure(config: ModelConfig, width: int, words: int = 32) -> Cost:
    """Measure in a process of its own, so that no earlier work hides what this one takes.

    Args:
        config: names temporal encoder and similarity, and the number of frames.
        width: D.
        words: L of each text.
    """
    return in_fresh_process(_measure, config, width, words)


def in_fresh_process(function: Callable[..., T], *arguments: object) -> T:
    """Call a module's function in a new process and give its result back."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def made_up(texts: int, videos: int, frames: int, width: int, words: int) -> tuple[TextFeatures, VideoFeatures]:
    """Random features, everything real."""
    generator = torch.Generator().manual_seed(0)
    sentence = torch.randn(texts, width, generator=generator)
    tokens = torch.randn(texts, words, width, generator=generator)
    video = VideoFeatures.from_frames(torch.randn(videos, frames, width, generator=generator))
    return TextFeatures(sentence, tokens, torch.ones(texts, words, dtype=torch.bool)), video


@torch.no_grad()
def time_and_memory(score: Callable[[TextFeatures], object], text: TextFeatures) -> tuple[float, float, int]:
    """Milliseconds, MiB, and how many texts were scored; both as growth over what went before in this process.

    What takes longer than ``PATIENCE`` is timed on a part of the texts, and scaled up.
    """
    score(text[:2])  # libraries set up their own memory at the first call
    _forget_peak()
    before = _peak_mib()
    some = max(2, len(text) // 50)
    half, whole = (_seconds(lambda: score(text[:count])) for count in (some // 2, some))  # noqa: B023 - called at once
    seconds = whole + (whole - half) / (some - some // 2) * (len(text) - some)
    if seconds < PATIENCE:
        some, seconds = len(text), min(_seconds(lambda: score(text)) for _ in range(2))
    return 1000 * seconds, max(0.0, _peak_mib() - before), some


@torch.no_grad()
def multiply_adds(temporal: TemporalEncoder, similarity: Similarity, frames: int, width: int, words: int) -> float:
    """Of encoding 1000 videos and scoring 1000 texts against them.

    Counted on a few; the count is a number for each text, each video and each pair, plus a constant.
    """
    counts = {(q, b): _count(temporal, similarity, made_up(q, b, frames, width, words)) for q in (4, 8) for b in (4, 8)}
    pair = (counts[8, 8] - counts[8, 4] - counts[4, 8] + counts[4, 4]) / 16
    text = (counts[8, 4] - counts[4, 4]) / 4 - 4 * pair
    video = (counts[4, 8] - counts[4, 4]) / 4 - 4 * pair
    constant = counts[4, 4] - 4 * text - 4 * video - 16 * pair
    return constant + TEXTS * text + VIDEOS * video + TEXTS * VIDEOS * pair


def _measure(config: ModelConfig, width: int, words: int) -> Cost:
    temporal, similarity = build_head(config, width)
    temporal.eval(), similarity.eval()
    operations = multiply_adds(temporal, similarity, config.frames, width, words)
    text, video = made_up(TEXTS, VIDEOS, config.frames, width, words)
    milliseconds, mib, timed = time_and_memory(lambda part: similarity(part, video), text)
    parameters = sum(p.numel() for part in (temporal, similarity) for p in part.parameters())
    return Cost(parameters, operations, milliseconds, mib, timed)


def _count(temporal: TemporalEncoder, similarity: Similarity, made: tuple[TextFeatures, VideoFeatures]) -> float:
    """With torch's fused encoder layers and recurrent cells taken apart, which the counter cannot look into."""
    text, video = made
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a TF32 setting that this touches in passing
        with torch.backends.mkldnn.flags(enabled=False), FlopCounterMode(display=False) as counter:
            similarity(text, temporal(video))
    torch.backends.mha.set_fastpath_enabled(fast)
    return counter.get_total_flops() / 2


def _seconds(run: Callable[[], object]) -> float:
    began = time.perf_counter()
    run()
    return time.perf_counter() - began


def _forget_peak() -> None:
    """Count the peak from here on where the system can, Linux; elsewhere it stays that of the whole process."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def _peak_mib() -> float:
    """Not from ``getrusage`` where there is another way: on Linux a process inherits its parent's peak there."""
    with contextlib.suppress(OSError):
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")) / 2**10
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)
