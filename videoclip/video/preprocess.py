"""CLIP's image transform on whole clips.

open_clip resizes PIL images one by one. Here a clip (T, H, W, 3) uint8 straight from the decoder is viewed as
(T, 3, H, W) without copying, which selects torchvision's fast uint8 kernel: several times faster than PIL and
equal to open_clip's own transform within 2 gray levels (tested for every setting that open_clip uses, over sizes and
shapes); on decoded frames at CLIP's usual 224 pixels at least 99.5 % of the values are identical.

Pixels that are not square are made so by the same resize, which takes the picture from its stored grid to the size that
open_clip would give to the picture as it is shown: nothing is resampled twice.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as F

from videoclip.video.picture import shown_size

PixelShape = Literal["square", "stored"]


@dataclass(frozen=True)
class Preprocess:
    """The parameters of an open_clip image transform, and the transform itself for whole clips.

    Attributes:
        size: (height, width) of the result.
        mean, std: per channel, on values in [0, 1].
        interpolation: ``bicubic`` or ``bilinear``, always antialiased.
        resize_mode: ``shortest`` side to size then centre crop; ``longest`` side to size then pad; ``squash``.
        fill_color: gray level of the padding of ``longest``.
        resize: ``fast``, or ``pillow`` for open_clip's own numbers to the bit, several times slower.
        pixel_shape: ``square`` shows anamorphic video as a player does; ``stored`` takes its pixels for square ones.
    """

    size: tuple[int, int] = (224, 224)
    mean: tuple[float, float, float] = (0.48145466, 0.4578275, 0.40821073)
    std: tuple[float, float, float] = (0.26862954, 0.26130258, 0.27577711)
    interpolation: str = "bicubic"
    resize_mode: str = "shortest"
    fill_color: int = 0
    resize: Literal["fast", "pillow"] = "fast"
    pixel_shape: PixelShape = "square"

    @property
    def mode(self) -> InterpolationMode:
        """The interpolation as torchvision names it."""
        return InterpolationMode.BILINEAR if self.interpolation == "bilinear" else InterpolationMode.BICUBIC

    def shown_size(self, height: int, width: int, aspect: float) -> tuple[int, int]:
        """Return the height and width at which a stored picture is shown, by the aspect of its pixels."""
        return (height, width) if self.pixel_shape == "stored" else shown_size(height, width, aspect)

    def __call__(self, clip: np.ndarray | Tensor, aspect: float = 1.0) -> Tensor:
        """Resize and crop a clip (T, H, W, 3) uint8 to (T, 3, height, width) uint8, T >= 1.

        Args:
            clip: decoded frames.
            aspect: width over height of each of their pixels.
        """
        pixels = torch.as_tensor(clip).permute(0, 3, 1, 2)  # not .contiguous(): that would lose the fast kernel
        height, width = pixels.shape[-2:]
        target = _resized(self.shown_size(height, width, aspect), self.size, self.resize_mode)
        if self.resize == "pillow":
            pictures = [F.resize(F.to_pil_image(picture), list(target), self.mode) for picture in pixels]
            pixels = torch.stack([F.pil_to_tensor(picture) for picture in pictures])
        else:
            if _columns_first((height, width), target, self.mode):
                pixels = F.resize(pixels, [target[0], width], interpolation=self.mode, antialias=True)
            pixels = F.resize(pixels, list(target), interpolation=self.mode, antialias=True)
        if self.resize_mode == "longest":
            pixels = _pad(pixels, self.size, self.fill_color)
        return F.center_crop(pixels, list(self.size)).contiguous()

    def normalize(self, pixels: Tensor) -> Tensor:
        """Turn pixels (N, 3, H, W) uint8 into the floats that the image tower expects."""
        mean = torch.tensor(self.mean, device=pixels.device).view(3, 1, 1)
        std = torch.tensor(self.std, device=pixels.device).view(3, 1, 1)
        return (pixels.float() / 255 - mean) / std


@functools.lru_cache(256)
def _columns_first(source: tuple[int, int], target: tuple[int, int], mode: InterpolationMode) -> bool:
    """Whether Pillow resizes the columns of a picture before its rows, which torchvision never does.

    Both round to whole levels in between, so the order is seen in the result: by 20 levels at a sharp edge. Pillow
    chooses it by the sizes, and not in all its versions, so it is asked: with noise, once for each pair of sizes.
    """
    if source[0] == target[0] or source[1] == target[1]:
        return False
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, source, np.uint8))
    way = Image.Resampling.BILINEAR if mode == InterpolationMode.BILINEAR else Image.Resampling.BICUBIC
    height, width = target
    columns_first = noise.resize((source[1], height), way).resize((width, height), way)
    return columns_first == noise.resize((width, height), way)


def _resized(source: tuple[int, int], size: tuple[int, int], mode: str) -> tuple[int, int]:
    """Height and width after open_clip's resize, with its rounding: it differs by mode and for square targets."""
    height, width = source
    if mode == "squash":
        return size
    ratios = (height / size[0], width / size[1])
    if mode == "shortest" and size[0] == size[1]:
        short, long = size[0], int(size[0] * max(source) / min(source))
        return (short, long) if height <= width else (long, short)
    ratio = max(ratios) if mode == "longest" else min(ratios)
    return max(1, round(height / ratio)), max(1, round(width / ratio))  # a very narrow picture keeps a line


def _pad(pixels: Tensor, size: tuple[int, int], fill: int) -> Tensor:
    missing = [max(0, wanted - got) for wanted, got in zip(size, pixels.shape[-2:], strict=True)]
    top, left = missing[0] // 2, missing[1] // 2
    return F.pad(pixels, [left, top, missing[1] - left, missing[0] - top], fill=[fill])
