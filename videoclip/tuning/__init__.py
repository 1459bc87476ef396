"""Tunings: what is trained inside a CLIP tower. One file each; the file's name is the public name.

A model's tower has a list of them. It starts frozen; each tuning frees parameters of the tower or brings its own and
steps into the walk through the tower, see ``videoclip.backbone.walk``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from videoclip.backbone.walk import Memory, Steps, Tower
from videoclip.errors import ConfigError


class Tuning(Steps):
    """Base of every tuning.

    A subclass takes ``tower`` as its first argument and its options as keyword arguments. Clips reach it whole: every
    frame is real, since clips of unequal length are encoded apart.

    Attributes:
        towers: the sides that it can tune.
        walks: whether it steps into the walk; without that a tower of any architecture serves.
        mergeable: whether ``merge`` can fold it into the tower.
    """

    towers: ClassVar[tuple[str, ...]] = ("image", "text")
    walks: ClassVar[bool] = True
    mergeable: ClassVar[bool] = False

    def __init__(self, tower: Tower) -> None:
        super().__init__()
        name = type(self).__name__
        if tower.kind not in self.towers:
            raise ConfigError(
                f"{tower.kind}_tuning", [f"{name} tunes the {self.towers[0]} tower, not the {tower.kind}"]
            )
        if self.walks:
            tower.check(name)
        self.tower = tower

    def merge(self) -> None:
        """Fold what was trained into the tower, which computes the same afterwards without this tuning.

        Raises:
            ConfigError: this tuning computes something that the tower's own weights cannot.
        """
        raise ConfigError("merge", [f"{type(self).__name__} cannot be folded into the tower's weights"])


class ResidualAdapters(Tuning):
    """Base of tunings that change the residual stream by small modules in front of attention, MLP, or both.

    A subclass implements ``make``.

    Args:
        tower: to be tuned.
        hidden: width inside an adapter.
        blocks: the last so many blocks have adapters; all when not given.
        places: in front of attention, the MLP, or both.
    """

    def __init__(
        self,
        tower: Tower,
        hidden: int = 384,
        blocks: int | None = None,
        places: Sequence[Literal["attention", "mlp"]] = ("mlp",),
    ) -> None:
        super().__init__(tower)
        self.first = first_block(tower, blocks)
        count = len(tower.blocks) - self.first
        self.attention = nn.ModuleList(self.make(hidden) for _ in range(count if "attention" in places else 0))
        self.mlp = nn.ModuleList(self.make(hidden) for _ in range(count if "mlp" in places else 0))

    def make(self, hidden: int) -> nn.Module:
        """One adapter: tokens -> tokens, which it changes by what it adds to them."""
        raise NotImplementedError

    def before_attention(self, block: int, x: Tensor, memory: Memory) -> Tensor:
        """Through the block's first adapter."""
        return self._through(self.attention, block, x)

    def before_mlp(self, block: int, x: Tensor, memory: Memory) -> Tensor:
        """Through the block's second adapter."""
        return self._through(self.mlp, block, x)

    def _through(self, adapters: nn.ModuleList, block: int, x: Tensor) -> Tensor:
        place = block - self.first
        return adapters[place](x) if 0 <= place < len(adapters) else x


def first_block(tower: Tower, last: int | None) -> int:
    """Number of the first of a tower's ``last`` blocks; of all when not given.

    Raises:
        ConfigError: the tower has fewer.
    """
    count = len(tower.blocks)
    if last is not None and not 0 <= last <= count:
        raise ConfigError(f"{tower.kind}_tuning", [f"{last} blocks were asked for, the tower has {count}"])
    return 0 if last is None else count - last


def at_frames(table: nn.Module, x: Tensor) -> Tensor:
    """Vectors of a ``Positions`` table for the frames of tokens x (B, T, N, W), all real: (B or 1, T, 1, W)."""
    real = torch.ones(x.shape[:2], dtype=torch.bool, device=x.device)
    found: Tensor = table(real)[:, :, None]
    return found


def empty_output(layer: nn.Linear | nn.Conv1d | nn.Conv3d) -> None:
    """Zero weight and bias, so that what the layer gives starts as nothing."""
    nn.init.zeros_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
