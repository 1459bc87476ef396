"""Time the searches of closed-form classifiers against the direct form of each: every grid point from its formula.

``python tools/bench_classify.py`` makes clustered features of 100 classes x 16 shots x 512, and 1600 validation clips.
A direct form that would take long is timed on some of its points and scaled, which its row says. That both choose
the same point is checked on a small case, where the direct form runs in full.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import islice, product
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from videoclip.classifier import Classifier, ClassTexts, Clips, Lesson, one_hot, right
from videoclip.classifier.ape import Ape
from videoclip.classifier.gda import ALPHAS, Gda
from videoclip.classifier.parts.search import first_best
from videoclip.classifier.proker import Proker
from videoclip.classifier.tip_adapter import TipAdapter
from videoclip.layers import unit

SAMPLED = 20  # points of a long direct search

Direct = Iterator[Callable[[], Tensor]]  # for each grid point, in order, the logits (N, K) of the validation clips


@dataclass(frozen=True)
class Case:
    """A classifier, one with a smaller grid, the direct form, and its products' multiply-adds for N, M, K and D."""

    make: Callable[[], Classifier]
    small: Callable[[], Classifier]
    direct: Callable[[Classifier, Lesson], Direct]
    products: Callable[[int, int, int, int], float]


def make_lesson(classes: int, shots: int, width: int, validation: int) -> Lesson:
    """Clips around class centres, and texts near these."""
    generator = torch.Generator().manual_seed(0)

    def noise(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    centres = noise(classes, width)
    texts = unit(centres + 4 * noise(classes, width))
    support = torch.arange(classes).repeat_interleave(shots)
    labels = torch.randint(classes, (validation,), generator=generator)
    known, asked = (Clips(unit(centres[y] + 3 * noise(len(y), width)), y) for y in (support, labels))
    return Lesson(ClassTexts(tuple(map(str, range(classes))), tuple(texts[:, None])), 100.0, known, asked)


def direct_tip(head: Classifier, lesson: Lesson) -> Direct:
    """Affinities again for every point."""
    assert isinstance(head, TipAdapter) and lesson.validation is not None
    rows, own = unit(lesson.validation.pooled), head.tensors
    zero, cosines = lesson.scale * rows @ own["weights"].T, rows @ own["keys"].T

    def logits(beta: float, alpha: float) -> Tensor:
        return zero + alpha * ((-1) * (beta - beta * cosines)).exp() @ own["values"]

    for point in product(*head.grid.values()):
        yield partial(logits, *point)


def direct_ape(head: Classifier, lesson: Lesson) -> Direct:
    """Affinities and weighed values again for every point."""
    assert isinstance(head, Ape) and lesson.validation is not None
    rows, own = unit(lesson.validation.pooled), head.tensors
    zero = lesson.scale * rows @ own["weights"].T
    cosines = unit(rows[:, own["chosen"]]) @ own["keys"].T

    def logits(beta: float, alpha: float, gamma: float) -> Tensor:
        soft = own["values"] * (own["fit"] * gamma).exp()[:, None]
        return zero + alpha * ((-1) * (beta - beta * cosines)).exp() @ soft

    for point in product(*head.grid.values()):
        yield partial(logits, *point)


def direct_gda(head: Classifier, lesson: Lesson) -> Direct:
    """The authors' way from the clips on: class by class, and a pseudo-inverse by singular values."""
    assert lesson.support is not None and lesson.validation is not None
    rows, labels = unit(lesson.support.pooled), lesson.support.known
    numbers = labels.unique()
    means = torch.stack([rows[labels == number].mean(0) for number in numbers])
    centred = torch.cat([rows[labels == number] - means[number] for number in numbers])
    covariance, width = centred.T.cov(), rows.shape[1]
    shrunk = (len(centred) - 1) * covariance + covariance.trace() * torch.eye(width)
    precision = width * torch.linalg.pinv(shrunk)
    slopes = torch.einsum("nd,dc->cn", means, precision)
    offsets = (1 / torch.tensor(float(len(means)))).log() - torch.einsum("nd,dc,nc->n", means, precision, means) / 2
    queries = unit(lesson.validation.pooled)
    zero = lesson.scale * queries @ lesson.texts.weights.T

    def logits(alpha: float) -> Tensor:
        return zero + alpha * (queries @ slopes + offsets)

    for alpha in ALPHAS:
        yield partial(logits, alpha)


def direct_proker(head: Classifier, lesson: Lesson) -> Direct:
    """A system solved for every point."""
    assert isinstance(head, Proker) and lesson.support is not None and lesson.validation is not None
    own, queries = head.tensors, unit(lesson.validation.pooled)
    residual = one_hot(lesson.support.known, len(own["weights"])) - own["keys"] @ own["weights"].T

    def logits(beta: float, ridge: float) -> Tensor:
        kernel = (beta * (own["keys"] @ own["keys"].T - 1)).exp()
        solved = torch.linalg.solve(kernel / ridge + torch.eye(len(kernel)), residual)
        return queries @ own["weights"].T + (beta * (queries @ own["keys"].T - 1)).exp() @ solved

    for point in product(*head.grid.values()):
        yield partial(logits, *point)


def proker() -> Proker:
    """With 20 x 20 points."""
    return Proker(ridge_steps=20)


def small_ape() -> Ape:
    """With 12 x 6 x 5 points."""
    return Ape(beta_steps=12, alpha_steps=6, gamma_steps=5)


CASES = {
    "gda": Case(Gda, Gda, direct_gda, lambda n, m, k, d: m * d * d + n * k * d),
    "tip_adapter, 4000 points": Case(TipAdapter, TipAdapter, direct_tip, lambda n, m, k, d: 200 * n * m * k),
    "ape, 80,000 points": Case(Ape, small_ape, direct_ape, lambda n, m, k, d: 4000 * n * m * k),
    "proker, 400 points": Case(proker, proker, direct_proker, lambda n, m, k, d: 20 * (n * m * m + 20 * n * m * k)),
}


def same_choice(case: Case) -> bool:
    """Whether both forms choose the same point, at the same accuracy, on 10 classes x 4 shots x 64."""
    lesson, head = make_lesson(10, 4, 64, 200), case.small()
    head.fit(lesson)
    assert lesson.validation is not None and head.found is not None
    counts = [right(logits(), lesson.validation.known) for logits in case.direct(head, lesson)]
    found = first_best(head.found.grid, torch.tensor(counts), len(lesson.validation), head.found.values)
    return found.values == head.found.values and found.accuracy == head.found.accuracy


def measure(name: str, lesson: Lesson, speed: float) -> dict[str, Any]:
    """Seconds of both forms, and of the matrix products alone at the speed of this machine's."""
    case = CASES[name]
    head = case.make()
    began = time.perf_counter()
    head.fit(lesson)
    seconds = time.perf_counter() - began
    assert lesson.support is not None and lesson.validation is not None and head.found is not None
    points = 1
    for tried in head.found.grid.values():
        points *= len(tried)
    some = points if points <= len(ALPHAS) else SAMPLED
    began = time.perf_counter()
    for logits in islice(case.direct(head, lesson), some):
        right(logits(), lesson.validation.known)
    direct = (time.perf_counter() - began) * points / some
    sizes = (len(lesson.validation), len(lesson.support), len(lesson.texts), lesson.support.pooled.shape[1])
    least = case.products(*sizes) / speed
    return {"name": name, "seconds": seconds, "direct": direct, "scaled": some < points, "least": least}


def multiply_adds_a_second() -> float:
    """Of a product of two matrices of 1600 x 1600."""
    left, right_side = torch.randn(2, 1600, 1600)
    left @ right_side
    began = time.perf_counter()
    for _ in range(10):
        left @ right_side
    return 10 * 1600**3 / (time.perf_counter() - began)


def main() -> None:
    """Print a table, and write it with --out."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, help="JSON of the rows")
    out = parser.parse_args().out
    lesson, speed = make_lesson(100, 16, 512, 1600), multiply_adds_a_second()
    rows = []
    print("| `tools/bench_classify.py` | s | direct s | times faster | products alone s | same choice |")
    print("| --- | --: | --: | --: | --: | --- |")
    for name, case in CASES.items():
        row = measure(name, lesson, speed) | {"same": same_choice(case)}
        rows.append(row)
        star = " (from 20 points)" if row["scaled"] else ""
        print(
            f"| {name} | {row['seconds']:.2f} | {row['direct']:,.1f}{star} | "
            f"{row['direct'] / row['seconds']:,.0f} | {row['least']:.2f} | {'yes' if row['same'] else 'NO'} |"
        )
    if out:
        out.write_text(json.dumps({"multiply_adds_a_second": speed, "rows": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
