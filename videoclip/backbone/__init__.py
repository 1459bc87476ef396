"""The CLIP towers behind one small interface; ``openclip`` holds the implementation on open_clip."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from videoclip.features import TextFeatures
from videoclip.video.preprocess import Preprocess


class Backbone(Protocol):
    """What a pair of CLIP towers must offer; bring your own if open_clip does not have it.

    Attributes:
        width: D, the joint embedding width.
        preprocess: the image transform; clips (T, H, W, 3) uint8 -> (T, 3, S, S) uint8.
        fingerprint: hash of weights and preprocessing as loaded; features of unequal fingerprints must not mix.
        spec: arguments of ``create_backbone`` that load the same backbone again, ready for JSON.
        initial_logit_scale: the natural logarithm of the trained temperature's inverse.
    """

    width: int
    preprocess: Preprocess
    fingerprint: str
    spec: dict[str, Any]
    initial_logit_scale: float

    @property
    def image_tower(self) -> nn.Module:
        """The image side's parameters."""

    @property
    def text_tower(self) -> nn.Module:
        """The text side's parameters."""

    def encode_image(self, pixels: Tensor) -> Tensor:
        """(N, 3, S, S) uint8, or float already normalised -> (N, D), not normalised."""

    def encode_patches(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """(N, 3, S, S) uint8 -> as ``encode_image``, and patch tokens (N, P, D); needed only to store patches."""

    def encode_text(self, tokens: Tensor, words: bool = False) -> TextFeatures:
        """(Q, L) token ids -> sentence (Q, D), and with ``words`` also words (Q, L, D) and mask (Q, L)."""

    def tokenize(self, texts: Sequence[str]) -> Tensor:
        """Q texts -> (Q, L) token ids; longer texts are cut."""


def device_of(backbone: Backbone) -> torch.device:
    """Where a backbone's image tower lies."""
    return next(backbone.image_tower.parameters()).device


def create_backbone(
    name: str = "tiny",
    pretrained: str | None = None,
    device: str = "cpu",
    *,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    interpolation: str | None = None,
    resize_mode: str | None = None,
) -> Backbone:
    """Load a backbone.

    Tags, repositories and model folders bring the image transform that they were trained with. A file of weights gets
    the one on which all pretrained tags of its architecture agree; where they do not, it must be given.

    Args:
        name: ``tiny`` (shipped with the package), an open_clip architecture such as ``ViT-B-32-quickgelu``,
            ``hf-hub:org/model``, or a folder with ``open_clip_config.json`` and weights.
        pretrained: an open_clip tag such as ``openai``, or a file of weights; only with an architecture.
        device: ``cpu``, ``cuda``, or ``auto`` for a GPU if there is one.
        mean, std: three numbers each, subtracted from and divided into pixels in [0, 1].
        interpolation: ``bicubic`` or ``bilinear``.
        resize_mode: ``shortest``, ``longest`` or ``squash``; see ``videoclip.video.preprocess.Preprocess``.

    Raises:
        BackboneError: the name or tag is unknown, the weights do not fit the architecture, a tokenizer or package is
            missing, or the image transform is not known.
    """
    from videoclip.backbone.openclip import OpenClip

    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    transform = {"mean": mean, "std": std, "interpolation": interpolation, "resize_mode": resize_mode}
    return OpenClip(name, pretrained, transform=transform).to(device)


def reopen_backbone(spec: Mapping[str, Any], device: str = "cpu") -> Backbone:
    """Load the backbone that a store, a checkpoint or a classifier was made with.

    Args:
        spec: a backbone's ``spec`` as it was written down; other keys are passed over.
        device: as for ``create_backbone``.

    Raises:
        BackboneError: as ``create_backbone``.
    """
    from videoclip.backbone.source import records_transform
    from videoclip.backbone.transform import UNRECORDED, chosen_transform

    name, pretrained = str(spec["name"]), spec.get("pretrained")
    transform = chosen_transform(spec)
    if not transform and not records_transform(name, pretrained):
        transform = UNRECORDED  # the same features as then, right or wrong: what was stored must fit
    return create_backbone(name, pretrained, device, **transform)
