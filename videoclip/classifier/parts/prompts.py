"""Prompts that are learned: vectors among a class name's token embeddings, and the text tower that reads them.

Shapes: Q prompts, K classes, L tokens, W width of the text tower, M context vectors, D joint width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Tensor

from videoclip.backbone.walk import Memory, Steps, Tower, walk_text
from videoclip.errors import DataError

Position = Literal["end", "middle", "front"]
PROMPTS_AT_ONCE = 256


class PromptTower:
    """A text tower that takes token embeddings in place of tokens.

    Args:
        tower: a causal CLIP text transformer.
        tunings: what was trained inside it.
    """

    def __init__(self, tower: Tower, tunings: Sequence[Steps] = ()) -> None:
        tower.check("a learned prompt")
        self.tower, self._tunings = tower, tuple(tunings)

    @property
    def width(self) -> int:
        """W."""
        return self.tower.width

    def embed(self, tokens: Tensor) -> Tensor:
        """Token ids (Q, L) -> (Q, L, W), without positions."""
        embedded: Tensor = self.tower.module.token_embedding(tokens)
        return embedded.detach()

    def encode(self, embeddings: Tensor, tokens: Tensor) -> Tensor:
        """Prompts (Q, L, W) -> sentences (Q, D), not normalised; ``tokens`` (Q, L) say where each one ends."""
        parts = zip(embeddings.split(PROMPTS_AT_ONCE), tokens.split(PROMPTS_AT_ONCE), strict=True)
        found = [walk_text(self.tower, ids, [_Given(part), *self._tunings]).sentence for part, ids in parts]
        return torch.cat(found)

    def words(self, text: str) -> Tensor:
        """Embeddings (n, W) of a text's own tokens."""
        tokens = self.tower.tokenize([text])
        return self.embed(tokens)[0, 1 : int(tokens.argmax())]


class _Given(Steps):
    """Puts embeddings in the place of the tokens' own."""

    def __init__(self, embeddings: Tensor) -> None:
        super().__init__()
        self._embeddings = embeddings

    def enter(self, x: Tensor, memory: Memory) -> Tensor:
        return self._embeddings.to(x.dtype)


@dataclass(frozen=True)
class Layout:
    """Prompts of K classes with room for M context vectors: start token, M places, class name, full stop, end token.

    Attributes:
        tokens: (K, L) ids; those of the M places count for nothing.
        embedded: (K, L, W) their embeddings.
        lengths: (K,) tokens of each class name.
        context: M.
    """

    tokens: Tensor
    embedded: Tensor
    lengths: Tensor
    context: int

    @classmethod
    def of(cls, tower: PromptTower, names: Sequence[str], context: int) -> Layout:
        """Prompts of class names.

        Raises:
            DataError: a name is too long for the tower beside so many context vectors.
        """
        names = [name.replace("_", " ") for name in names]
        plain = tower.tower.tokenize([f"{name}." for name in names])
        alone = tower.tower.tokenize(list(names))
        ends, places = plain.argmax(1), plain.shape[1] - context
        for name, end in zip(names, ends.tolist(), strict=True):
            if end >= places:
                raise DataError(
                    f"class {name!r}: its name and {context} context vectors need {end + 1 + context} tokens, the text "
                    f"tower has {plain.shape[1]}; take fewer context vectors or a shorter name."
                )
        room = plain[:, 1:2].expand(-1, context)  # any token but the end token, whose id is the highest
        tokens = torch.cat([plain[:, :1], room, plain[:, 1:places]], 1)
        return cls(tokens, tower.embed(tokens), alone.argmax(1) - 1, context)

    def tensors(self) -> dict[str, Tensor]:
        """What ``kept`` makes the layout of again."""
        return {"prompt_tokens": self.tokens, "name_lengths": self.lengths}

    @classmethod
    def kept(cls, tower: PromptTower, tensors: Mapping[str, Tensor]) -> Layout:
        """Of a classifier's tensors: those of ``tensors()``, embedded again, and the context ``vectors`` (M, W)."""
        tokens = tensors["prompt_tokens"]
        return cls(tokens, tower.embed(tokens), tensors["name_lengths"], len(tensors["vectors"]))

    def filled(self, context: Tensor, position: Position = "end") -> Tensor:
        """Prompts (K, L, W) with context (M, W) of all classes, or (K, M, W) of each.

        Args:
            position: where the class name stands: at the end, in the middle or at the front of the context.
        """
        classes, count = len(self.tokens), self.context
        context = context.expand(classes, -1, -1).to(self.embedded.dtype)
        start, rest = self.embedded[:, :1], self.embedded[:, 1 + count :]
        if position == "end":
            return torch.cat([start, context, rest], 1)
        before = count // 2 if position == "middle" else 0
        rows = []
        for number, length in enumerate(self.lengths.tolist()):
            name, after = rest[number, :length], rest[number, length:]
            own = context[number]
            rows.append(torch.cat([start[number], own[:before], name, own[before:], after]))
        return torch.stack(rows)


class HasTower(Protocol):
    """What ``tower_of`` looks into."""

    @property
    def tower(self) -> PromptTower | None:
        """The text tower, if it is at hand."""


def tower_of(owner: HasTower) -> PromptTower:
    """The text tower of class texts, or of a classifier.

    Raises:
        DataError: it is not at hand.
    """
    if owner.tower is None:
        raise DataError("This method runs the text tower: give it the backbone, not only a store.")
    return owner.tower
