"""VoP's text prompts (Huang et al., CVPR 2023, arXiv:2211.12764)."""

from typing import Literal

import torch
from torch import Tensor, nn

from videoclip.backbone.walk import Memory, Tower
from videoclip.errors import ConfigError
from videoclip.tuning import Tuning


class VopText(Tuning):
    """Prompts in every block, some after the start token and some after the words; their outputs are dropped.

    The code to which the authors point puts the latter before the last place of the padded sequence and reads the
    sentence ``suffix`` places after its end token, so that only captions which fill the context see them. Here they
    stand before the end token, which makes that the place to read.

    Args:
        tower: the text tower.
        prefix, suffix: prompts a block.
        place: ``original`` repeats that code.
    """

    towers = ("text",)

    def __init__(
        self, tower: Tower, prefix: int = 4, suffix: int = 4, place: Literal["before_end", "original"] = "before_end"
    ) -> None:
        super().__init__(tower)
        if not 0 < prefix + suffix < tower.context_length - 2:
            raise ConfigError("vop_text", [f"prefix + suffix must lie in 1..{tower.context_length - 3}"])
        self.prefix, self.suffix, self.place = prefix, suffix, place
        self.prompts = nn.Parameter(0.02 * torch.randn(len(tower.blocks), prefix + suffix, tower.width))

    def ids(self, tokens: Tensor) -> Tensor:
        """As many as leave room for the prompts."""
        return shortened(tokens, self.tower.context_length - self.prefix - self.suffix)

    def enter(self, x: Tensor, memory: Memory) -> Tensor:
        """Find every token's place, and insert the first block's prompts."""
        count = x.shape[1]
        places = torch.arange(count, device=x.device).expand(len(x), -1)
        cut = memory["tokens"].argmax(-1, keepdim=True) if self.place == "before_end" else count - 1
        mine = places + (places > 0) * self.prefix + (places >= cut) * self.suffix
        prompts = torch.arange(1, 1 + self.prefix + self.suffix, device=x.device).expand(len(x), -1)
        memory[self] = torch.cat([mine, prompts + (prompts > self.prefix) * (cut - 1)], 1)
        return self._prompted(0, x, memory[self])

    def before_attention(self, block: int, x: Tensor, memory: Memory) -> Tensor:
        """Exchange the prompts."""
        return self._prompted(block, self._plain(x, memory[self]), memory[self]) if block else x

    def leave(self, x: Tensor, memory: Memory) -> Tensor:
        """Without prompts."""
        plain = self._plain(x, memory[self])
        if self.place == "original":
            rows, end = torch.arange(len(x), device=x.device), memory["tokens"].argmax(-1)
            plain = plain.index_put((rows, end), x[rows, end + self.prefix + self.suffix])
        return plain

    def _prompted(self, block: int, x: Tensor, places: Tensor) -> Tensor:
        """Tokens (Q, L, W), then the block's prompts, each to its place."""
        parts = torch.cat([x, self.prompts[block].to(x.dtype).expand(len(x), -1, -1)], 1)
        return parts.gather(1, places.argsort(1)[..., None].expand_as(parts))

    def _plain(self, x: Tensor, places: Tensor) -> Tensor:
        own = places[:, : x.shape[1] - self.prefix - self.suffix]
        return x.gather(1, own[..., None].expand(-1, -1, x.shape[-1]))


def shortened(tokens: Tensor, length: int) -> Tensor:
    """Token ids (Q, L) cut to a length; a text that is too long keeps its end token, the highest id, in the last place.

    Raises:
        ConfigError: there is no such length.
    """
    end = tokens.amax(1, keepdim=True)
    kept = tokens[:, :length]
    lost = (kept != end).all(1, keepdim=True)
    return torch.cat([kept[:, :-1], torch.where(lost, end, kept[:, -1:])], 1)
