"""Two processes for all of training's tests together."""

from __future__ import annotations

import pytest

from tests.helpers.two_processes import OfTwo, in_two


@pytest.fixture(scope="session")
def of_two(tmp_path_factory: pytest.TempPathFactory) -> OfTwo:
    """Run what every file of tests here wants of two processes, and give its results by the file's module name."""
    from tests.training import test_evaluate, test_pixels, test_recognition, test_task

    files = (test_evaluate, test_pixels, test_recognition, test_task)
    return in_two(tmp_path_factory.mktemp("two"), [file.one_of_two for file in files])
