"""ViFi-CLIP's prompts of both towers (Rasheed et al., CVPR 2023, arXiv:2212.03640)."""

import torch
from torch import Tensor, nn

from videoclip.backbone.walk import Memory, Tower
from videoclip.errors import ConfigError
from videoclip.tuning import Tuning
from videoclip.tuning.vop_text import shortened


class Vifi(Tuning):
    """Prompts of the first blocks overwrite those of the block before; after them the last ones go on as tokens.

    They stand after the patches in the image tower, and between start token and words in the text tower. Equal to the
    authors' code, which keeps deep prompts in half precision and writes placeholder words where prompts go; here a
    caption is as it is and the prompts are put in front of it.

    Args:
        tower: either one.
        tokens: prompts a block; as many as ``words`` have tokens, where those are given.
        depth: how many blocks have prompts of their own.
        words: the text tower's first prompts start from the embeddings of these words (``a photo of a``); otherwise,
            like all others, from N(0, 0.02).
    """

    def __init__(self, tower: Tower, tokens: int = 10, depth: int = 9, words: str | None = None) -> None:
        super().__init__(tower)
        start = _embedded(tower, words) if words is not None else None
        if start is not None:
            tokens = len(start)
        if depth < 1 or tokens < 1:
            raise ConfigError("vifi", ["tokens and depth must be at least 1"])
        depth = min(depth, len(tower.blocks))
        self.count = tokens
        self.prompts = nn.Parameter(0.02 * torch.randn(depth, tokens, tower.width))
        if start is not None:
            self.prompts.data[0] = start
        self.place = 1 + (tower.patches if tower.kind == "image" else 0)

    def ids(self, tokens: Tensor) -> Tensor:
        """As many as leave room for the prompts."""
        return shortened(tokens, self.tower.context_length - self.count)

    def enter(self, x: Tensor, memory: Memory) -> Tensor:
        """Insert the first block's prompts."""
        return self._with(0, x[..., : self.place, :], x[..., self.place :, :])

    def before_attention(self, block: int, x: Tensor, memory: Memory) -> Tensor:
        """Overwrite what has become of them."""
        if not 0 < block < len(self.prompts):
            return x
        return self._with(block, x[..., : self.place, :], x[..., self.place + self.count :, :])

    def leave(self, x: Tensor, memory: Memory) -> Tensor:
        """Without prompts."""
        return torch.cat([x[..., : self.place, :], x[..., self.place + self.count :, :]], -2)

    def _with(self, block: int, before: Tensor, after: Tensor) -> Tensor:
        prompts = self.prompts[block].to(before.dtype).expand(*before.shape[:-2], -1, -1)
        return torch.cat([before, prompts, after], -2)


def _embedded(tower: Tower, words: str) -> Tensor:
    if tower.kind != "text":
        raise ConfigError("vifi.words", ["only the text tower has words to start from"])
    ids = tower.tokenize([words])[0]
    inner = ids[1 : int(ids.argmax())]
    found: Tensor = tower.module.token_embedding.weight.detach()[inner]
    return found
