"""Optimiser groups and the learning-rate schedule."""

from __future__ import annotations

import math
from collections.abc import Container

import torch
from torch import nn

from videoclip.config import TrainConfig


def make_optimizer(task: nn.Module, config: TrainConfig, pretrained: Container[str]) -> torch.optim.AdamW:
    """AdamW over what is trained: vectors and scalars without weight decay.

    Args:
        task: whose ``model`` is trained.
        pretrained: names within the model that learn at the towers' own rate.
    """
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in task.named_parameters():
        if parameter.requires_grad:
            peak = config.tower_lr if name.removeprefix("model.") in pretrained else config.lr
            decay = config.weight_decay if parameter.ndim > 1 else 0.0
            groups.setdefault((peak, decay), []).append(parameter)
    parts = [
        {"params": parameters, "peak_lr": peak, "lr": peak, "weight_decay": decay}
        for (peak, decay), parameters in groups.items()
    ]
    return torch.optim.AdamW(parts, betas=(0.9, 0.98), eps=1e-6)


def schedule(step: int, steps: int, warmup: float) -> float:
    """Share of the peak rate at a step from 0 to ``steps`` - 1: a straight rise, then half a cosine down to zero."""
    rising = max(1, round(warmup * steps))
    if step < rising:
        return (step + 1) / rising
    return 0.5 + 0.5 * math.cos(math.pi * (step - rising) / max(1, steps - rising))


def set_learning_rate(optimizer: torch.optim.Optimizer, share: float) -> None:
    """Set each group to its share of its own peak."""
    for group in optimizer.param_groups:
        group["lr"] = share * group["peak_lr"]
