"""Further views of the same frames: square crops along the longer side, and random augmentations of a whole clip."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as F

from videoclip.video.preprocess import Preprocess

CROPS = ("crop-first", "crop-middle", "crop-last")  # left, centre, right; top, centre, bottom of portrait frames


def view_names(crops: bool = False, augmentations: int = 0) -> list[str]:
    """The names of the views of a recipe, in the order in which they are stored."""
    return [*(CROPS if crops else ()), *(f"augment-{number}" for number in range(augmentations))]


def make_views(
    clip: np.ndarray | Tensor, preprocess: Preprocess, names: Sequence[str], key: str, aspect: float = 1.0
) -> Tensor:
    """The plain view and all named ones: (T, H, W, 3) uint8 -> (T, 1 + V, 3, S, S) uint8.

    Args:
        clip: decoded frames.
        preprocess: makes the plain view and gives the size.
        names: of ``view_names``.
        key: the clip's id; an augmentation depends on it and the view's name alone.
        aspect: width over height of each pixel.
    """
    views = [preprocess(clip, aspect)]
    pixels = torch.as_tensor(clip).permute(0, 3, 1, 2)
    for name in names:
        if name in CROPS:
            views.append(_crop(pixels, preprocess, name, aspect))
        else:
            generator = np.random.default_rng(zlib.crc32(f"{name}/{key}".encode()))
            views.append(augmented(pixels, preprocess, generator, aspect=aspect))
    return torch.stack(views, 1)


@dataclass(frozen=True)
class RandomCrop:
    """A part of a picture, in pixels, and whether it is mirrored."""

    top: int
    left: int
    height: int
    width: int
    mirrored: bool


def random_crop(size: Sequence[int], generator: np.random.Generator, mirror: bool = True) -> RandomCrop:
    """50 to 100 % of the area with sides up to 4 : 3, mirrored half of the time if that is allowed."""
    height, width = size
    area = height * width * generator.uniform(0.5, 1.0)
    ratio = np.exp(generator.uniform(np.log(3 / 4), np.log(4 / 3)))
    tall, wide = (min(limit, round(np.sqrt(area * r))) for limit, r in ((height, 1 / ratio), (width, ratio)))
    top, left = generator.integers(height - tall + 1), generator.integers(width - wide + 1)
    return RandomCrop(int(top), int(left), tall, wide, bool(generator.random() < 0.5) and mirror)


def augmented(
    pixels: Tensor, preprocess: Preprocess, generator: np.random.Generator, mirror: bool = True, aspect: float = 1.0
) -> Tensor:
    """Draw one part of all frames and resize it: (T, 3, H, W) uint8 -> (T, 3, S, S) uint8."""
    shown = preprocess.shown_size(pixels.shape[-2], pixels.shape[-1], aspect)
    crop = random_crop(shown, generator, mirror)
    view = _square(pixels, shown, (crop.top, crop.left, crop.height, crop.width), preprocess)
    return view.flip(-1) if crop.mirrored else view


def _crop(pixels: Tensor, preprocess: Preprocess, name: str, aspect: float) -> Tensor:
    """The largest square at one end, or in the middle, of the longer side."""
    shown = preprocess.shown_size(pixels.shape[-2], pixels.shape[-1], aspect)
    side, share = min(shown), CROPS.index(name) / 2
    top, left = (round((length - side) * share) for length in shown)
    return _square(pixels, shown, (top, left, side, side), preprocess)


def _square(pixels: Tensor, shown: tuple[int, int], part: tuple[int, int, int, int], preprocess: Preprocess) -> Tensor:
    """Resize the part (top, left, height, width) of the picture as it is shown, from the pixels that are stored."""
    down, across = pixels.shape[-2] / shown[0], pixels.shape[-1] / shown[1]
    top, left = round(part[0] * down), round(part[1] * across)
    height = max(1, round((part[0] + part[2]) * down) - top)
    width = max(1, round((part[1] + part[3]) * across) - left)
    size = list(preprocess.size)
    return F.resized_crop(pixels, top, left, height, width, size, preprocess.mode, antialias=True).contiguous()
