"""R-Adapter (Kim et al., ECCV 2024, arXiv:2408.06070)."""

from typing import Any

import torch
from torch import Tensor, nn

from videoclip.backbone.walk import Memory, Tower
from videoclip.tuning import Tuning


class RAdapter(Tuning):
    """What attention and MLP give is multiplied by 1 + s M, M a full matrix; afterwards it folds into their last layer.

    For each sample the change is dropped at random in training. The paper's tests take 0.5 (classification) or 0.8
    (retrieval) of the change, by the average of M along the training: ``train.average=ema``, then
    ``videoclip blend pretrained RUN --alpha 0.8``. The drop rate is known from a secondary source alone.

    Args:
        tower: either one.
        drop: probability of a sample's being spared.
        scale: initial s, which is learned.
    """

    mergeable = True

    def __init__(self, tower: Tower, drop: float = 0.2, scale: float = 0.1) -> None:
        super().__init__(tower)
        self.drop = drop
        count, width = len(tower.blocks), tower.width
        self.matrices = nn.Parameter(torch.zeros(count, 2, width, width))  # row vectors times matrix
        self.scales = nn.Parameter(torch.full((count, 2), scale))

    def attention_output(self, block: int, attended: Tensor, memory: Memory) -> Tensor:
        """Through the block's first matrix."""
        return self._changed(attended, block, 0)

    def mlp_output(self, block: int, mixed: Tensor, normed: Tensor, memory: Memory) -> Tensor:
        """Through the block's second matrix."""
        return self._changed(mixed, block, 1)

    @torch.no_grad()
    def merge(self) -> None:
        """Multiply the last layers of attention and MLP by 1 + s M."""
        blocks: Any = self.tower.blocks
        for block, matrices, scales in zip(blocks, self.matrices, self.scales, strict=True):
            for linear, matrix, scale in zip((block.attn.out_proj, block.mlp.c_proj), matrices, scales, strict=True):
                linear.weight += scale * matrix.T @ linear.weight
                linear.bias += scale * linear.bias @ matrix

    def _changed(self, x: Tensor, block: int, place: int) -> Tensor:
        change = self.scales[block, place] * (x @ self.matrices[block, place].to(x.dtype))
        if self.training and self.drop:
            kept = torch.rand(len(x), *[1] * (x.ndim - 1), device=x.device) >= self.drop
            change = change * kept / (1 - self.drop)
        return x + change
