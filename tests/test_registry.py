"""A component from another package is one entry point away."""

from __future__ import annotations

import sys
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
import torch

from videoclip import registry
from videoclip.errors import ConfigError
from videoclip.features import VideoFeatures

PLUGIN = '''
from torch import nn
from videoclip.temporal import TemporalEncoder

class Scale(TemporalEncoder):
    """Multiplies frames."""
    def __init__(self, width: int, factor: float = 2.0) -> None:
        super().__init__()
        self.factor = factor
    def encode(self, frames, mask):
        return frames * self.factor
'''


@pytest.fixture
def plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An installed package's entry point, as importlib.metadata reports it."""
    (tmp_path / "their_package.py").write_text(PLUGIN)
    monkeypatch.syspath_prepend(str(tmp_path))
    entry = EntryPoint("scale", "their_package:Scale", "videoclip.temporal")
    monkeypatch.setattr(registry, "entry_points", lambda group: [entry] if group == entry.group else [])
    registry.components.cache_clear()
    yield
    registry.components.cache_clear()
    sys.modules.pop("their_package", None)


@pytest.mark.usefixtures("plugin")
def test_entry_points_are_found_and_checked() -> None:
    assert "scale" in registry.components("temporal") and "scale" not in registry.components("similarity")
    module = registry.create("temporal", "scale", {"factor": 3.0}, width=4)
    video = VideoFeatures.from_frames(torch.ones(1, 2, 4))
    assert torch.equal(module(video).frames, 3 * video.frames)
    with pytest.raises(ConfigError, match="did you mean 'factor'"):
        registry.create("temporal", "scale", {"facto": 3.0}, width=4)


def test_a_name_offered_twice_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    entry = EntryPoint("lstm", "theirs:LSTM", "videoclip.temporal")
    monkeypatch.setattr(registry, "entry_points", lambda group: [entry])
    registry.components.cache_clear()
    with pytest.raises(ConfigError, match="'lstm' is offered twice"):
        registry.components("temporal")
    registry.components.cache_clear()


def test_options_are_the_constructors_keywords() -> None:
    for kind in ("temporal", "similarity", "tuning"):
        for name, component in registry.components(kind).items():  # type: ignore[arg-type]
            assert component.__doc__, name
            assert "width" not in registry.option_types(component)
