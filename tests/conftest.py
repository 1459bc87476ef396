"""What several tests share: the tiny CLIP, a small moving-shapes data set on disk, and its store."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.helpers.data import DATA
from tests.helpers.numbered import numbered
from videoclip.backbone import create_backbone
from videoclip.backbone.openclip import OpenClip
from videoclip.data.manifest import read_manifest
from videoclip.store import FeatureStore
from videoclip.store.extract import cache_features
from videoclip.synthetic.moving_shapes import Counts, write_moving_shapes
from videoclip.video.clip import FrameChoice
from videoclip.video.encode import write_video


@pytest.fixture(scope="session")
def shared() -> Path:
    """Real videos; tests that need them skip without."""
    if not DATA.is_dir():
        pytest.skip(f"no real videos at {DATA}")
    return DATA


@pytest.fixture(scope="session")
def tiny() -> OpenClip:
    """The shipped backbone, frozen; a test that trains towers loads its own."""
    backbone = create_backbone("tiny")
    assert isinstance(backbone, OpenClip)
    return backbone


@pytest.fixture(scope="session")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Manifest of a few moving-shapes videos in every split."""
    return write_moving_shapes(tmp_path_factory.mktemp("shapes"), counts=Counts(train=24, val=4, test=6, novel=3))


@pytest.fixture(scope="session")
def shapes_store(shapes: Path, tiny: OpenClip, tmp_path_factory: pytest.TempPathFactory) -> FeatureStore:
    """The store of ``shapes``, twelve frames a clip."""
    folder = tmp_path_factory.mktemp("store") / "store"
    cache_features(read_manifest(shapes), folder, tiny, FrameChoice(frames=12), workers=0)
    return FeatureStore(folder)


@pytest.fixture(scope="session")
def numbered_mp4(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An ordinary H.264 file of 100 numbered frames at 25 fps, with B-frames and several groups of pictures."""
    path = tmp_path_factory.mktemp("numbered") / "numbered.mp4"
    write_video(path, numbered(100), 25, options={"g": "24", "bf": "3", "crf": "15"})
    return path


@pytest.fixture(scope="session")
def shared_features(shared: Path) -> np.ndarray:
    """Scores (400, 400) of a trained retrieval model, texts by videos."""
    scores: np.ndarray = np.load(shared / "features" / "msrvtt_1kA_similarity_vit_b16_first400.npy")
    return scores
