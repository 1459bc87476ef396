"""Averages of a model's weights along its training."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class BetaMovingAverage:
    """Average of all weights seen, most of it at both ends of training (CLIPood, Shu et al., ICML 2023).

    The weights after step i of n count as the density of Beta(beta, beta) at (i + 1/2) / (n + 1); those before the
    first step are i = 0. Buffers are not averaged. Source: arXiv:2302.00864.

    Args:
        module: at its start.
        steps: of the whole training.
        beta: below 1 both ends count most.
    """

    def __init__(self, module: nn.Module, steps: int, beta: float = 0.5) -> None:
        places = (torch.arange(steps + 1, dtype=torch.float64) + 0.5) / (steps + 1)
        shape = torch.tensor(beta, dtype=torch.float64)
        self.weights = torch.distributions.Beta(shape, shape).log_prob(places).exp().tolist()
        self.average: dict[str, Tensor] = {n: p.detach().clone() for n, p in module.named_parameters()}
        self._step = 0

    @torch.no_grad()
    def update(self, module: nn.Module) -> None:
        """Take in the weights after one more step."""
        self._step += 1
        share = self.weights[self._step] / sum(self.weights[: self._step + 1])
        for name, parameter in module.named_parameters():
            self.average[name].lerp_(parameter, share)
