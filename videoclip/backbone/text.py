"""Words of a text tower: which of its tokens are embeddings in the joint space, and which are padding."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


class PlainTextTower(nn.Module):
    """Groups the text parameters that open_clip's plain CLIP class keeps next to the image tower."""

    def __init__(self, clip: Any) -> None:
        super().__init__()
        self.token_embedding = clip.token_embedding
        self.positional_embedding = clip.positional_embedding
        self.transformer = clip.transformer
        self.ln_final = clip.ln_final
        self.text_projection = clip.text_projection
        self.pool_type = getattr(clip, "text_pool_type", "argmax")
        self.cls_emb = None  # which only open_clip's separate text tower can have
        self._clip = (clip,)  # a tuple hides it from the list of modules

    @property
    def attn_mask(self) -> Tensor | None:
        """The causal mask (L, L), wherever the model lies now."""
        found: Tensor | None = self._clip[0].attn_mask
        return found


def has_words(text: Any) -> bool:
    """Report whether a tower's sentence is one of its tokens after the final norm and the projection.

    It is not where tokens are averaged (towers of the transformers library), and where a class token follows the
    words, which themselves only feed a decoder (CoCa).
    """
    return isinstance(getattr(text, "ln_final", None), nn.Module) and text.cls_emb is None


def projected(tokens: Tensor, text: Any) -> Tensor:
    """Return normed tokens (..., W) in the joint space (..., D)."""
    projection = text.text_projection
    if projection is None:
        return tokens
    found: Tensor = projection(tokens) if isinstance(projection, nn.Module) else tokens @ projection
    return found


def word_mask(tokens: Tensor, text: Any, tokenizer: Any) -> Tensor:
    """Return (Q, L) bool for token ids (Q, L): every token up to the last one before padding.

    Args:
        tokens: token ids (Q, L).
        text: tower that reads them.
        tokenizer: open_clip's own, or its wrapper around one of transformers.
    """
    places = torch.arange(tokens.shape[1], device=tokens.device)
    if text.pool_type == "argmax":  # CLIP's end token has the highest id; "!" has the id of the padding
        return places <= tokens.argmax(-1, keepdim=True)

    inner = getattr(tokenizer, "tokenizer", None)
    padding = getattr(inner, "pad_token_id", 0)
    count = ((tokens != padding) * (places + 1)).amax(-1, keepdim=True)
    # SigLIP pads with its end token: the first one is the text's own.
    ends = padding == getattr(inner, "eos_token_id", None)
    return places < count + ends
