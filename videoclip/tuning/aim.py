"""AIM (Yang et al., ICLR 2023, arXiv:2302.03024)."""

from typing import Any

from torch import Tensor, nn
from torchvision.ops import stochastic_depth

from videoclip.backbone.walk import Memory, Tower, attend
from videoclip.layers import Positions
from videoclip.tuning import Tuning, at_frames
from videoclip.tuning.bottleneck import narrow_network


class Aim(Tuning):
    """Each block's own attention serves once more, over the frames; adapters follow both uses and stand beside the MLP.

    Equal to the authors' code in the tower. The final LayerNorm is trained, too, as there; their classification head
    is not part of it.

    Args:
        tower: the image tower.
        ratio: adapter width in terms of W.
        scale: of the adapters beside the MLP: 0.5 on Kinetics, 1 on Something-Something.
        before_time: one more adapter in front of the attention over frames, as on Something-Something.
        frames: rows of the table of frame positions, which starts at zero and is stretched over longer clips.
        drop_path: probability that a clip skips attention over frames, or the adapter beside the MLP, in training.
    """

    towers = ("image",)

    def __init__(
        self,
        tower: Tower,
        ratio: float = 0.25,
        scale: float = 0.5,
        before_time: bool = False,
        frames: int = 8,
        drop_path: float = 0.2,
    ) -> None:
        super().__init__(tower)
        self.scale, self.drop_path = scale, drop_path
        self.positions = Positions(frames, tower.width)
        nn.init.zeros_(self.positions.weight)
        narrow, count = int(tower.width * ratio), len(tower.blocks)
        names = ("time", "space", "mlp", *(("time_input",) if before_time else ()))
        self.adapters = nn.ModuleDict(
            {name: nn.ModuleList(narrow_network(tower.width, narrow) for _ in range(count)) for name in names}
        )
        tower.module.ln_post.requires_grad_(True)

    def enter(self, x: Tensor, memory: Memory) -> Tensor:
        """Frame positions, for all tokens."""
        return x + at_frames(self.positions, x).to(x.dtype)

    def before_attention(self, block: int, x: Tensor, memory: Memory) -> Tensor:
        """Attention over the frames, for each token place."""
        layer: Any = self.tower.blocks[block]
        tokens = layer.ln_1(x)
        if "time_input" in self.adapters:
            tokens = tokens + self._adapter("time_input", block)(tokens)
        mixed = attend(layer, tokens.transpose(1, 2)).transpose(1, 2)
        return x + self._dropped(self._adapter("time", block)(mixed))

    def attention_output(self, block: int, attended: Tensor, memory: Memory) -> Tensor:
        """The adapter after attention over patches, with a skip."""
        return attended + self._adapter("space", block)(attended)

    def mlp_output(self, block: int, mixed: Tensor, normed: Tensor, memory: Memory) -> Tensor:
        """The adapter beside the MLP."""
        return mixed + self._dropped(self.scale * self._adapter("mlp", block)(normed))

    def _adapter(self, name: str, block: int) -> nn.Module:
        found: Any = self.adapters[name]
        return found[block]

    def _dropped(self, change: Tensor) -> Tensor:
        kept: Tensor = stochastic_depth(change, self.drop_path, "row", self.training)
        return kept
