"""Part of a tower's own weights is trained."""

from torch import nn

from videoclip.backbone.walk import Tower
from videoclip.tuning import Tuning, first_block


class Partial(Tuning):
    """The last blocks, the LayerNorms, the final projection, each if so wished.

    As it stands it is CLIP4Clip's freezing (Luo et al., 2021, arXiv:2104.08860, ``freeze_layer_num`` 0): all blocks,
    final LayerNorm and projection train; patch, class, position and token embeddings and the first LayerNorm do not.
    Their ``freeze_layer_num`` n of 12 blocks is ``blocks: 12 - n``.

    Args:
        tower: to be tuned.
        blocks: the last so many; all when not given.
        norms: also every LayerNorm outside of those blocks.
        projection: also the final LayerNorm and the projection.
    """

    walks = False
    mergeable = True

    def __init__(self, tower: Tower, blocks: int | None = None, norms: bool = False, projection: bool = True) -> None:
        super().__init__(tower)
        tower.check("Partial")
        for block in tower.blocks[first_block(tower, blocks) :]:
            block.requires_grad_(True)
        for part in tower.module.modules():
            if norms and isinstance(part, nn.LayerNorm):
                part.requires_grad_(True)
        if projection:
            final, matrix = ("ln_post", "proj") if tower.kind == "image" else ("ln_final", "text_projection")
            getattr(tower.module, final).requires_grad_(True)
            if getattr(tower.module, matrix) is not None:
                getattr(tower.module, matrix).requires_grad_(True)

    def merge(self) -> None:
        """Nothing to do: the tower's own weights were trained."""
