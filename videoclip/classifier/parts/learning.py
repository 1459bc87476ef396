"""Gradient descent on a few tensors over cached features, by the schedules of the papers."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from videoclip.errors import ConfigError


@dataclass(frozen=True)
class Schedule:
    """How to train.

    Attributes:
        optimizer: ``adamw``; ``adam`` and ``sgd`` (momentum 0.9) with the decay inside the gradient.
        rate: ``step`` falls as a cosine to zero with every step; ``epoch`` does so with every epoch, after the warm
            ones (the CoOp family's first is at 1e-5); ``constant`` stays.
        warm_epochs, warm_lr: of ``epoch``.
        drop_last: leave out an incomplete last batch, unless there is no other.
    """

    lr: float
    epochs: int
    batch: int = 256
    optimizer: Literal["adamw", "adam", "sgd"] = "adamw"
    weight_decay: float = 0.01
    eps: float = 1e-8
    rate: Literal["step", "epoch", "constant"] = "step"
    warm_epochs: int = 1
    warm_lr: float = 1e-5
    drop_last: bool = False

    def __post_init__(self) -> None:
        if self.epochs < 1 or self.batch < 1:
            raise ConfigError("classifier", ["epochs and batch must be at least 1"])


def learn(
    parameters: Sequence[Tensor],
    backward: Callable[[Tensor], None],
    count: int,
    schedule: Schedule,
    seed: int = 0,
    orders: Iterable[Tensor] | None = None,
    score: Callable[[], float] | None = None,
    after_epoch: Callable[[], None] = lambda: None,
) -> list[float]:
    """Change parameters in place.

    Args:
        parameters: leaves that require gradients.
        backward: adds the gradients of the rows of given numbers (n,).
        count: of rows.
        seed: of the order of rows, and of what ``backward`` draws.
        orders: of the rows in each epoch, in place of random ones.
        score: after each epoch; parameters end as they were where it was highest, at the first of equal ones. Without
            it they end as they are.
        after_epoch: called at the end of each.

    Returns:
        The scores.
    """
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        shuffled = (torch.randperm(count) for _ in range(schedule.epochs))
        return _learn(parameters, backward, count, schedule, shuffled if orders is None else orders, score, after_epoch)


def _learn(
    parameters: Sequence[Tensor],
    backward: Callable[[Tensor], None],
    count: int,
    schedule: Schedule,
    orders: Iterable[Tensor],
    score: Callable[[], float] | None,
    after_epoch: Callable[[], None],
) -> list[float]:
    optimizer = _optimizer(parameters, schedule)
    drop = schedule.drop_last and count >= schedule.batch
    a_round = count // schedule.batch if drop else math.ceil(count / schedule.batch)
    scores, best = list[float](), [parameter.detach().clone() for parameter in parameters]
    for epoch, order in enumerate(orders):
        for number, index in enumerate(order[: a_round * schedule.batch].split(schedule.batch)):
            optimizer.param_groups[0]["lr"] = _rate(schedule, epoch, epoch * a_round + number, a_round)
            optimizer.zero_grad()
            with torch.enable_grad():
                backward(index)
            optimizer.step()
        after_epoch()
        if score is not None:
            scores.append(score())
            if scores[-1] > max(scores[:-1], default=-math.inf):
                best = [parameter.detach().clone() for parameter in parameters]
    if score is not None:
        for parameter, kept in zip(parameters, best, strict=True):
            parameter.data.copy_(kept)
    return scores


def _optimizer(parameters: Sequence[Tensor], schedule: Schedule) -> torch.optim.Optimizer:
    if schedule.optimizer == "sgd":
        return torch.optim.SGD(parameters, schedule.lr, momentum=0.9, weight_decay=schedule.weight_decay)
    kind = torch.optim.AdamW if schedule.optimizer == "adamw" else torch.optim.Adam
    return kind(parameters, schedule.lr, eps=schedule.eps, weight_decay=schedule.weight_decay)


def _rate(schedule: Schedule, epoch: int, step: int, steps: int) -> float:
    if schedule.rate == "constant":
        return schedule.lr
    if schedule.rate == "epoch":
        if epoch < schedule.warm_epochs:
            return schedule.warm_lr
        done, whole = epoch - schedule.warm_epochs, schedule.epochs
    else:
        done, whole = step, schedule.epochs * steps
    return schedule.lr * (1 + math.cos(math.pi * done / whole)) / 2


def leaf(tensor: Tensor) -> Tensor:
    """A copy that gradients end in."""
    return tensor.detach().clone().requires_grad_()


def epochs_by_shots(support_clips: int, classes: int) -> int:
    """The CoOp family's: 50 for one shot, 100 for two to four, 200 for more."""
    shots = support_clips / classes
    return 50 if shots < 2 else 100 if shots <= 4 else 200
