"""Two processes for all of training's tests together."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest

from tests.helpers.two_processes import OfTwo, in_two
from videoclip.store import FeatureStore


@pytest.fixture(scope="session")
def of_two(shapes: Path, shapes_store: FeatureStore, tmp_path_factory: pytest.TempPathFactory) -> OfTwo:
    """Run what every file of tests here wants of two processes, and give its results by the file's module name."""
    from tests.training import test_evaluate, test_loop, test_pixels, test_recognition, test_task

    works = {file.__name__: file.one_of_two for file in (test_evaluate, test_pixels, test_recognition, test_task)}
    folder = tmp_path_factory.mktemp("two")
    run = partial(test_loop.one_of_two, config=test_loop.config_of(shapes, shapes_store), out=folder / "run")
    return in_two(folder, {**works, test_loop.__name__: run})
