"""What several tests share, and which tests run: the slow ones only when they are asked for."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # two processes share the cores, see addopts; read when torch is imported

import numpy as np
import pytest
import torch

from tests.helpers.data import DATA, RECORDINGS
from tests.helpers.numbered import numbered
from videoclip.backbone import create_backbone
from videoclip.backbone.openclip import OpenClip
from videoclip.data.manifest import read_manifest
from videoclip.store import FeatureStore
from videoclip.store.extract import cache_features
from videoclip.synthetic.moving_shapes import Counts, write_moving_shapes
from videoclip.video.clip import FrameChoice
from videoclip.video.encode import write_video

pytest_plugins = ["pytester"]
CHOSEN = ("slow", "ray", "gpu")  # markers of tests that run only when they are chosen
NO_DATA = "data outside the repository"
left_out = pytest.StashKey[dict[str, int]]()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what runs only when chosen, by ``-m`` or by naming the very test; skip GPU tests without a GPU."""
    for item in items:
        if item.get_closest_marker("gpu") and not torch.cuda.is_available():
            item.add_marker(pytest.mark.skip(reason="needs a GPU"))

    if config.option.markexpr:
        return
    named = tuple(argument.partition("::")[2] for argument in config.args if "::" in argument)
    dropped = {
        item: kind
        for item in items
        if (kind := _chosen_kind(item)) and not item.nodeid.partition("::")[2].startswith(named)
    }
    config.stash[left_out] = Counter(dropped.values())
    config.hook.pytest_deselected(items=list(dropped))
    items[:] = [item for item in items if item not in dropped]


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Hand what was left out to the process that prints the summary: tests are collected by its workers."""
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["left_out"] = dict(session.config.stash.get(left_out, {}))


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Take what a worker left out; all workers collect the same."""
    node.config.stash[left_out] = getattr(node, "workeroutput", {}).get("left_out", {})


def _chosen_kind(item: pytest.Item) -> str | None:
    """Return the first of ``CHOSEN`` that marks a test."""
    return next((name for name in CHOSEN if item.get_closest_marker(name)), None)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Say what did not run and how to run it."""
    for kind, count in config.stash.get(left_out, {}).items():
        tests, them = ("test was", "it") if count == 1 else ("tests were", "them")
        terminalreporter.write_line(f"{count} {kind} {tests} not run; run {them} with: pytest -m {kind}")
    skipped = [report for report in terminalreporter.getreports("skipped") if NO_DATA in str(report.longrepr)]
    if skipped or not RECORDINGS.is_dir():
        recordings = "" if RECORDINGS.is_dir() else f", and the recordings of {RECORDINGS} were not compared"
        terminalreporter.write_line(
            f"{len(skipped)} tests were skipped for lack of {NO_DATA}{recordings}; set VIDEOCLIP_DATA to its folder"
        )


@pytest.fixture(scope="session")
def shared() -> Path:
    """Return the folder of real videos, annotations and features; tests that need it skip without it."""
    if not DATA.is_dir():
        pytest.skip(f"needs {NO_DATA}: {DATA}")
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
