"""A walk through a CLIP tower, block by block, with places where tunings step in.

open_clip's modules stay as they are; this file calls them in the order in which open_clip's own ``forward`` does, and
without any tuning gives the same numbers. Shapes: B clips, T frames, N tokens a frame (class token first), W tower
width, D joint width, Q texts, L text tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from videoclip.errors import BackboneError
from videoclip.features import TextFeatures

Memory = dict[Any, Tensor]  # what steps of one walk tell later ones; under ``"tokens"`` the token ids of texts


@dataclass(frozen=True, eq=False)
class Tower:
    """One side of a backbone, as tunings see it; no ``nn.Module``, so holding one registers no parameter.

    Attributes:
        kind: which side.
        module: its parameters.
        name: the backbone's, for messages.
        tokenize: texts -> token ids (Q, L).
    """

    kind: Literal["image", "text"]
    module: Any
    name: str
    tokenize: Callable[[Sequence[str]], Tensor]

    @property
    def blocks(self) -> nn.ModuleList:
        """The transformer's residual attention blocks."""
        found: nn.ModuleList = self.module.transformer.resblocks
        return found

    @property
    def width(self) -> int:
        """W."""
        return int(
            self.module.ln_post.weight.shape[0] if self.kind == "image" else self.module.ln_final.weight.shape[0]
        )

    @property
    def joint_width(self) -> int:
        """D, of an image tower."""
        projection = self.module.proj
        return self.width if projection is None else int(projection.shape[1])

    @property
    def heads(self) -> int:
        """Attention heads of a block."""
        first: Any = self.blocks[0]
        return int(first.attn.num_heads)

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of patches."""
        rows, columns = self.module.grid_size
        return int(rows), int(columns)

    @property
    def patches(self) -> int:
        """N - 1, how many patches a frame has."""
        rows, columns = self.grid
        return rows * columns

    @property
    def context_length(self) -> int:
        """L, of which the tower has positions."""
        return len(self.module.positional_embedding)

    def project(self, tokens: Tensor) -> Tensor:
        """Tokens (..., W) -> the joint space (..., D), through the final LayerNorm and the projection."""
        final = self.module.ln_post if self.kind == "image" else self.module.ln_final
        matrix = self.module.proj if self.kind == "image" else self.module.text_projection
        normed: Tensor = final(tokens)
        if matrix is None:
            return normed
        return matrix(normed) if isinstance(matrix, nn.Module) else normed @ matrix

    def check(self, who: str) -> None:
        """Refuse a tower whose blocks cannot be walked.

        Raises:
            BackboneError: naming what ``who`` needs.
        """
        module = self.module
        parts = ("ln_1", "attn", "ls_1", "ln_2", "mlp", "ls_2")
        blocks = getattr(getattr(module, "transformer", None), "resblocks", [])
        plain = bool(len(blocks)) and all(hasattr(block, part) for block in blocks for part in parts)
        plain = plain and all(isinstance(block.attn, nn.MultiheadAttention) for block in blocks)
        if self.kind == "image":
            token = getattr(module, "pool_type", "") == "tok" and not getattr(module, "final_ln_after_pool", True)
            if not (plain and token and module.attn_pool is None):
                raise BackboneError(f"{self.name}: {who} needs a CLIP vision transformer that reads its class token.")
            return
        causal = getattr(module, "attn_mask", None) is not None and getattr(module, "cls_emb", None) is None
        if not (plain and causal and getattr(module, "pool_type", "") == "argmax"):
            raise BackboneError(f"{self.name}: {who} needs a causal CLIP text transformer that reads its end token.")


class Steps(nn.Module):
    """The places of a walk. Each gives its input back; a tuning overrides those where it changes something.

    Tokens x are (B, T, N, W) in the image tower and (Q, L, W) in the text tower; ``memory`` belongs to one walk.
    """

    def patches(self, pixels: Tensor) -> Tensor | None:
        """Pixels (B, T, 3, S, S) -> patch embeddings (B, T, N - 1, W); None leaves that to the tower."""
        return None

    def ids(self, tokens: Tensor) -> Tensor:
        """Token ids (Q, L) that the text tower reads."""
        return tokens

    def enter(self, x: Tensor, memory: Memory) -> Tensor:
        """Images: after positions were added, before the first LayerNorm. Texts: before positions are added."""
        return x

    def before_attention(self, block: int, x: Tensor, memory: Memory) -> Tensor:
        """The residual stream as it enters a block."""
        return x

    def attention_input(self, block: int, normed: Tensor, memory: Memory) -> Tensor:
        """What serves as query, key and value; the residual stream does not see the change."""
        return normed

    def attention_output(self, block: int, attended: Tensor, memory: Memory) -> Tensor:
        """What is added to the residual stream after attention."""
        return attended

    def before_mlp(self, block: int, x: Tensor, memory: Memory) -> Tensor:
        """The residual stream between attention and MLP."""
        return x

    def mlp_output(self, block: int, mixed: Tensor, normed: Tensor, memory: Memory) -> Tensor:
        """What is added to the residual stream after the MLP; ``normed`` is what the MLP read."""
        return mixed

    def after_block(self, block: int, x: Tensor, memory: Memory) -> Tensor:
        """The residual stream as it leaves a block."""
        return x

    def leave(self, x: Tensor, memory: Memory) -> Tensor:
        """After the last block, before the final LayerNorm."""
        return x

    def finish(self, frames: Tensor, x: Tensor, memory: Memory) -> Tensor:
        """Images: frames (B, T, D), and the tokens x before the final LayerNorm.

        Further tokens of a clip (B, K, D), or of each frame (B, T, K, D), may be left in memory under
        ``"video_tokens"``.
        """
        return frames


def walk_image(tower: Tower, pixels: Tensor, tunings: Sequence[Steps]) -> tuple[Tensor, Tensor | None]:
    """Pixels (B, T, 3, S, S), normalised, every frame real -> frames (B, T, D), and further tokens if there are any."""
    visual, memory = tower.module, Memory()
    embedded = next((p for tuning in tunings if (p := tuning.patches(pixels)) is not None), None)
    if embedded is None:
        embedded = visual.conv1(pixels.flatten(0, 1)).flatten(2).mT.unflatten(0, pixels.shape[:2])
    token = visual.class_embedding.to(embedded.dtype).expand(*embedded.shape[:2], 1, -1)
    x = torch.cat([token, embedded], 2) + visual.positional_embedding.to(embedded.dtype)
    for tuning in tunings:
        x = tuning.enter(x, memory)
    x, memory = _walk_blocks(tower, visual.ln_pre(x), memory, tunings, None)
    for tuning in tunings:
        x = tuning.leave(x, memory)
    frames = tower.project(x[:, :, 0])
    for tuning in tunings:
        frames = tuning.finish(frames, x, memory)
    return frames, memory.get("video_tokens")


def walk_text(tower: Tower, tokens: Tensor, tunings: Sequence[Steps], words: bool = False) -> TextFeatures:
    """Token ids (Q, L) -> sentence (Q, D), and with ``words`` also words (Q, L', D) and mask (Q, L')."""
    text = tower.module
    for tuning in tunings:
        tokens = tuning.ids(tokens)
    memory: Memory = {"tokens": tokens}
    x = text.token_embedding(tokens)
    for tuning in tunings:
        x = tuning.enter(x, memory)
    length = x.shape[1]
    x = x + text.positional_embedding[:length].to(x.dtype)
    causal = None if text.attn_mask is None else text.attn_mask[:length, :length]
    x, memory = _walk_blocks(tower, x, memory, tunings, causal)
    for tuning in tunings:
        x = tuning.leave(x, memory)
    end = tokens.argmax(-1)
    sentence = tower.project(x[torch.arange(len(x), device=x.device), end])
    if not words:
        return TextFeatures(sentence)
    return TextFeatures(sentence, tower.project(x), torch.arange(x.shape[1], device=x.device) <= end[:, None])


def attend(block: Any, normed: Tensor, causal: Tensor | None = None) -> Tensor:
    """A block's own attention over the last but one axis of tokens (..., N, W)."""
    mixed: Tensor = block.attention(normed.flatten(0, -3), attn_mask=causal)
    return mixed.view(normed.shape)


def _walk_blocks(
    tower: Tower, x: Tensor, memory: Memory, tunings: Sequence[Steps], causal: Tensor | None
) -> tuple[Tensor, Memory]:
    again = tower.module.transformer.grad_checkpointing and torch.is_grad_enabled()
    for number, block in enumerate(tower.blocks):
        arguments = (block, number, x, memory, tunings, causal)
        x, memory = checkpoint(run_block, *arguments, use_reentrant=False) if again else run_block(*arguments)
    return x, memory


def run_block(
    block: Any, number: int, x: Tensor, memory: Memory, tunings: Sequence[Steps], causal: Tensor | None
) -> tuple[Tensor, Memory]:
    """One block's tokens, and memory, which is copied: run again for its gradient, it finds what it found at first."""
    memory = dict(memory)
    for tuning in tunings:
        x = tuning.before_attention(number, x, memory)
    normed = block.ln_1(x)
    for tuning in tunings:
        normed = tuning.attention_input(number, normed, memory)
    attended = attend(block, normed, causal)
    for tuning in tunings:
        attended = tuning.attention_output(number, attended, memory)
    x = x + block.ls_1(attended)
    for tuning in tunings:
        x = tuning.before_mlp(number, x, memory)
    normed = block.ln_2(x)
    mixed = block.mlp(normed)
    for tuning in tunings:
        mixed = tuning.mlp_output(number, mixed, normed, memory)
    x = x + block.ls_2(mixed)
    for tuning in tunings:
        x = tuning.after_block(number, x, memory)
    return x, memory
