"""The configs of systems that tune CLIP's towers: headers, and that each builds and counts what it says."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from torch import nn

from videoclip.backbone.text import PlainTextTower
from videoclip.config import load_config
from videoclip.model import build_head, build_tunings

FOLDERS = ("tuned", "recognition")
CONFIGS = sorted(f for name in FOLDERS for f in (Path(__file__).parents[2] / "configs" / name).glob("*.yaml"))


class Shapes:
    """An architecture of open_clip without numbers in it, as a backbone."""

    def __init__(self, name: str) -> None:
        with torch.device("meta"):
            clip: Any = open_clip.model.CLIP(**open_clip.get_model_config(name))
        self.width, self.spec, self.image_tower = clip.visual.output_dim, {"name": name}, clip.visual
        self.text_tower: nn.Module = PlainTextTower(clip)
        self.tokenize = open_clip.get_tokenizer(name)


@pytest.mark.slow
@pytest.mark.parametrize("config", CONFIGS, ids=lambda c: f"{c.parent.name}/{c.stem}")
def test_headers_state_the_trained_parameters(config: Path) -> None:
    head = config.read_text().split("data:\n")[0]
    for word in ("arXiv:", "accelerate launch tools/train.py", "Differs:", "Paper:"):
        assert word in head, word
    assert f"configs/{config.parent.name}/{config.name}" in head
    said = re.search(r"Trained: ([\d,]+) parameters", head)
    assert said is not None
    loaded = load_config(config, ["data.manifest=m"])
    backbone: Any = Shapes(loaded.model.backbone.name)
    with torch.device("meta"):
        tunings = build_tunings(loaded.model, backbone)
        parts = build_head(loaded.model, backbone.width)
    modules = [backbone.image_tower, backbone.text_tower, *tunings[0], *tunings[1], *parts]
    count = sum(p.numel() for module in modules for p in module.parameters() if p.requires_grad)
    assert int(said[1].replace(",", "")) == count + parts[1].scale_logits, f"{count + parts[1].scale_logits:,}"
    assert loaded.data.source == "videos" and loaded.model.live_images


def test_every_system_has_its_config() -> None:
    assert len(CONFIGS) == 20 + 3
