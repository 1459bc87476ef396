"""GDA: Gaussian discriminant analysis beside the class texts."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from videoclip.classifier import Classifier, ClassTexts, Clips, Lesson, class_means
from videoclip.classifier.parts.search import Found, first_best, right_along
from videoclip.errors import DataError
from videoclip.layers import unit

ALPHAS = [1e-4, 1e-3, 1e-2, 0.1, 1.0, 10.0, 100.0]
NEIGHBOURS, TEXT_COPIES = 64, 16  # of a new class


class Gda(Classifier):
    """Zero-shot logits + alpha x those of Gaussians with one covariance for all classes.

    Source: Wang et al., A Hard-to-Beat Baseline, ICLR 2024, arXiv:2402.04087. Every augmented pass counts as a clip.
    With a single clip of each class and no passes there is no covariance, and the class texts decide alone.

    Args:
        covariance: ``shrunken``, of all clips around their class means, towards the identity (the few-shot form);
            ``class_mean``, the mean of each class's own, through a pseudo-inverse (the authors' base-to-new form, which
            needs at least two clips a class).
        alpha: where nothing can be searched.
    """

    def __init__(self, covariance: Literal["shrunken", "class_mean"] = "shrunken", alpha: float = 0.1) -> None:
        super().__init__()
        self.covariance, self.start = covariance, {"alpha": alpha}
        self._rows: Tensor | None = None

    def fit(self, lesson: Lesson) -> None:
        """Estimate means and covariance, then search alpha."""
        passes = lesson.shots.passes
        rows, labels = unit(passes.flatten(0, 1)), lesson.shots.known.repeat(len(passes))
        means = class_means(rows, labels, len(lesson.texts))
        if self.covariance == "shrunken":
            centred = rows - means[labels]
            copies = centred.norm(dim=1, keepdim=True) < 1e-5  # of their class's only clip, but for rounding
            precision = _shrunken_precision(centred.masked_fill(copies, 0))
        else:
            precision = torch.linalg.pinv(_mean_covariance(rows, labels, len(means)), hermitian=True)
        self._rows = rows
        self.keep(scale=lesson.scale, weights=lesson.texts.weights)
        self._take(means, precision)
        self.choose(self._search(lesson.validation))

    def logits(self, clips: Clips) -> Tensor:
        """(N, K)."""
        return self.zero_shot(clips) + self.tensors["alpha"] * self._gaussian(clips)

    def transferred(self, texts: ClassTexts) -> Classifier:
        """A new class is a Gaussian around its text and the 64 known clips nearest to it; alpha stays.

        Raises:
            DataError: the clips are not at hand, because the classifier was read from a file.
        """
        if self._rows is None:
            raise DataError("gda goes on to new classes from the clips it was fitted on, which no file keeps: fit it.")
        weights, other = texts.weights, Gda(self.covariance)
        means, precisions = zip(*(_around(weight, self._rows) for weight in weights), strict=True)
        other.keep(scale=self.tensors["scale"], weights=weights, alpha=self.tensors["alpha"])
        other._take(torch.stack(means), torch.stack(precisions).mean(0))
        return other

    def _take(self, means: Tensor, precision: Tensor) -> None:
        slopes = means @ precision
        prior = -torch.tensor(float(len(means))).log()
        self.keep(slopes=slopes, offsets=prior - (slopes * means).sum(1) / 2)

    def _gaussian(self, clips: Clips) -> Tensor:
        return unit(clips.pooled) @ self.tensors["slopes"].T + self.tensors["offsets"]

    def _search(self, validation: Clips | None) -> Found:
        if validation is None:
            return Found(self.start)
        counts = right_along(self.zero_shot(validation), self._gaussian(validation), ALPHAS, validation.known)
        return first_best({"alpha": ALPHAS}, counts, len(validation), self.start)


def _shrunken_precision(centred: Tensor) -> Tensor:
    """D x inverse of (M - 1) covariance + trace x identity, of rows (M, D) (Kubokawa and Srivastava)."""
    covariance, width = torch.cov(centred.T), centred.shape[1]
    spread = (len(centred) - 1) * covariance + covariance.trace() * torch.eye(width)
    return width * torch.linalg.pinv(spread, hermitian=True)


def _mean_covariance(rows: Tensor, labels: Tensor, classes: int) -> Tensor:
    each = [rows[labels == number] for number in range(classes)]
    if min(map(len, each)) < 2:
        raise DataError("gda with covariance=class_mean needs at least two clips of each class.")
    return torch.stack([torch.cov(part.T) for part in each]).mean(0)


def _around(weight: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
    """Mean (D,) and precision (D, D) of a class that only a text (D,) tells of, among rows (M, D) of other classes."""
    near = rows[(rows @ weight).topk(min(NEIGHBOURS, len(rows))).indices]
    mean = torch.cat([near, weight.expand(TEXT_COPIES, -1)]).mean(0)
    offsets, width = near - weight, len(weight)
    scatter = offsets.T @ offsets
    trace = scatter.trace() / (len(near) - 1)
    return mean, width * torch.linalg.pinv(scatter + trace * torch.eye(width), hermitian=True)
