"""Tunings: what is trained inside a CLIP tower. One file each; the file's name is the public name."""

from __future__ import annotations

from torch import nn


class Tuning:
    """Base of every tuning; ``apply`` prepares one tower."""

    def apply(self, tower: nn.Module) -> None:
        """Decide which parameters of ``tower`` train, through ``requires_grad``; wrap modules where needed."""
        raise NotImplementedError
