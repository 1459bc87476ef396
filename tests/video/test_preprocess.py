"""Equality with open_clip's own PIL transform."""

from __future__ import annotations

import numpy as np
import open_clip
import pytest
import torch
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image

from tests.helpers.data import VIDEOS
from tests.helpers.numbered import numbered
from videoclip.backbone.openclip import _preprocess
from videoclip.video.decode import read_frames

SIZES = {"square": (240, 240), "portrait": (320, 180), "landscape": (180, 320), "odd": (241, 321), "small": (97, 131)}


def distinct_configs() -> list[dict[str, object]]:
    """Every mean, std, interpolation and resize mode that an open_clip tag uses."""
    found = {}
    for architecture, tag in open_clip.list_pretrained():
        config = open_clip.pretrained.get_pretrained_cfg(architecture, tag)
        kept = {k: config[k] for k in ("mean", "std", "interpolation", "resize_mode") if config.get(k)}
        found[str(kept)] = kept
    return list(found.values())


def picture(height: int, width: int) -> np.ndarray:
    """A smooth pattern with edges and noise, as decoded video has."""
    generator = np.random.default_rng(height * width)
    y, x = np.mgrid[:height, :width]
    waves = [127 + 120 * np.sin(x / (5 + 7 * c) + y / (11 + 3 * c)) for c in range(3)]
    return np.clip(np.stack(waves, -1) + generator.normal(0, 8, (height, width, 3)), 0, 255).astype(np.uint8)


def compare(frame: np.ndarray, config: PreprocessCfg, identical: float = 0.75) -> None:
    """Within 2 grey levels everywhere, and on the same level for a share of the pixels."""
    mine = _preprocess(vars(config), "x")
    reference = image_transform_v2(config, is_train=False)(Image.fromarray(frame))
    result = mine.normalize(mine(frame[None]))[0]
    assert result.shape == reference.shape
    levels = (result - reference).abs() * 255 * torch.tensor(config.std).view(3, 1, 1)
    assert levels.max() <= 2.01 and (levels < 0.5).float().mean() >= identical


def test_configs_were_found() -> None:
    assert len(distinct_configs()) >= 4


@pytest.mark.parametrize("config", distinct_configs(), ids=str)
def test_equals_open_clip_for_every_config(config: dict[str, object]) -> None:
    compare(picture(240, 320), PreprocessCfg(size=224, **config))  # type: ignore[arg-type]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize("resize_mode", ["shortest", "longest", "squash"])
def test_equals_open_clip_for_every_shape(size: str, interpolation: str, resize_mode: str) -> None:
    compare(picture(*SIZES[size]), PreprocessCfg(size=112, interpolation=interpolation, resize_mode=resize_mode))


@pytest.mark.parametrize("name", ["nasa_rotated.mp4", "carphone_distorted.mp4", "nasa_vfr.mp4"])
def test_equals_open_clip_on_real_frames(name: str) -> None:
    compare(read_frames(VIDEOS / name, indices=[1]).pixels[0], PreprocessCfg(size=224), identical=0.995)


def test_a_clip_equals_its_frames() -> None:
    frames = numbered(5)
    preprocess = _preprocess(vars(PreprocessCfg(size=48)), "x")
    whole = preprocess(frames)
    assert whole.shape == (5, 3, 48, 48) and whole.dtype == torch.uint8
    assert all(torch.equal(whole[i], preprocess(frames[i : i + 1])[0]) for i in range(5))
