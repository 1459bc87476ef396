"""Averages of a model's trained weights along its training."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from videoclip.config import AverageConfig


class MovingAverage:
    """Average of the trained parameters after each step; buffers and frozen parameters are left out.

    Args:
        module: at its start, which counts as step 0.
    """

    def __init__(self, module: nn.Module) -> None:
        self.average: dict[str, Tensor] = {n: p.detach().clone() for n, p in _trained(module)}
        self.step = 0

    def share(self, step: int) -> float:
        """Share of the weights after a step in the average with them."""
        raise NotImplementedError

    @torch.no_grad()
    def update(self, module: nn.Module) -> None:
        """Take in the weights after one more step."""
        self.step += 1
        for name, parameter in _trained(module):
            self.average[name].lerp_(parameter, self.share(self.step))

    @contextmanager
    def applied(self, module: nn.Module) -> Iterator[None]:
        """The module has the average in place of its own weights, and has those back afterwards."""
        own = {name: parameter.detach().clone() for name, parameter in _trained(module)}
        _put(module, self.average)
        try:
            yield
        finally:
            _put(module, own)

    def state_dict(self) -> dict[str, Any]:
        """What going on needs."""
        return {"average": self.average, "step": self.step}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what ``state_dict`` gave."""
        self.step = state["step"]
        for name, tensor in state["average"].items():
            self.average[name].copy_(tensor)


class ExponentialAverage(MovingAverage):
    """Each step's weights count 1 - decay, and what was before them decay."""

    def __init__(self, module: nn.Module, decay: float) -> None:
        super().__init__(module)
        self._decay = decay

    def share(self, step: int) -> float:
        """The same at every step."""
        return 1 - self._decay


class BetaMovingAverage(MovingAverage):
    """Average of all weights seen, most of it at both ends of training (CLIPood, Shu et al., ICML 2023).

    The weights after step i of n count as the density of Beta(beta, beta) at (i + 1/2) / (n + 1); those before the
    first step are i = 0. Source: arXiv:2302.00864.

    Args:
        module: at its start.
        steps: of the whole training.
        beta: below 1 both ends count most.
    """

    def __init__(self, module: nn.Module, steps: int, beta: float = 0.5) -> None:
        super().__init__(module)
        places = (torch.arange(steps + 1, dtype=torch.float64) + 0.5) / (steps + 1)
        shape = torch.tensor(beta, dtype=torch.float64)
        weights = torch.distributions.Beta(shape, shape).log_prob(places).exp()
        self.weights, self._shares = weights.tolist(), (weights / weights.cumsum(0)).tolist()

    def share(self, step: int) -> float:
        """The step's weight over those of all steps so far."""
        return float(self._shares[step])


def make_average(config: AverageConfig, module: nn.Module, steps: int) -> MovingAverage | None:
    """The average that a config asks for, of a training of so many steps."""
    if config.name == "ema":
        return ExponentialAverage(module, config.decay)
    return BetaMovingAverage(module, steps, config.beta) if config.name == "beta" else None


def _trained(module: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    return ((name, parameter) for name, parameter in module.named_parameters() if parameter.requires_grad)


@torch.no_grad()
def _put(module: nn.Module, weights: dict[str, Tensor]) -> None:
    for name, parameter in _trained(module):
        parameter.copy_(weights[name])
