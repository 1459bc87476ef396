"""What several tests share: the tiny CLIP, a small moving-shapes data set on disk, and its store."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from videoclip.backbone import create_backbone
from videoclip.backbone.openclip import OpenClip
from videoclip.data.manifest import read_manifest
from videoclip.store import FeatureStore
from videoclip.store.extract import cache_features
from videoclip.synthetic.moving_shapes import Counts, write_moving_shapes
from videoclip.video.clip import FrameChoice
from videoclip.video.encode import write_video

SHARED = Path(__file__).parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def shared() -> Path:
    """Real videos; tests that need them skip without."""
    if not SHARED.is_dir():
        pytest.skip(f"no real videos at {SHARED}")
    return SHARED


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


BITS = 16


def numbered(count: int, height: int = 64, width: int = 96, first: int = 0) -> np.ndarray:
    """Frames (count, H, W, 3) that carry their own number as a bar code of 16 grey blocks."""
    bits = (np.arange(first, first + count)[:, None] >> np.arange(BITS)) & 1
    block = width // BITS
    frames = np.full((count, height, width, 3), 128, np.uint8)
    frames[:, :, : BITS * block] = np.repeat(np.where(bits, 235, 20), block, axis=1)[:, None, :, None]
    return frames


def numbers_of(frames: np.ndarray) -> list[int]:
    """The numbers that frames made by ``numbered`` carry."""
    block = frames.shape[2] // BITS
    centre = frames[:, frames.shape[1] // 2, block // 2 : BITS * block : block].mean(-1)
    return [int(((row > 128) << np.arange(BITS)).sum()) for row in centre]


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
