"""The suite itself: which tests run by default, and that its files lean on helpers alone."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
SUITE = """
import pytest

def test_fast():
    pass

@pytest.mark.slow
def test_slow():
    pass

@pytest.mark.slow
@pytest.mark.ray
def test_ray():
    pass

@pytest.mark.gpu
def test_gpu():
    pass
"""


@pytest.fixture
def suite(pytester: pytest.Pytester) -> pytest.Pytester:
    """Write four tests, chosen among by this suite's own rules."""
    pytester.makeconftest("from tests.conftest import pytest_collection_modifyitems, pytest_terminal_summary")
    pytester.makeini("[pytest]\nmarkers =\n  slow\n  ray\n  gpu\n")
    pytester.makepyfile(test_it=SUITE)
    return pytester


@pytest.mark.parametrize(
    ("arguments", "ran"),
    [
        ([], {"fast"}),
        (["-m", "slow"], {"slow", "ray"}),
        (["test_it.py::test_ray", "test_it.py::test_fast"], {"fast", "ray"}),
    ],
)
def test_slow_tests_run_only_when_they_are_chosen(
    suite: pytest.Pytester,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    ran: set[str],
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    passed, _, failed = suite.inline_run(*arguments).listoutcomes()
    assert {report.nodeid.split("::test_")[1] for report in passed} == ran
    assert not failed
    said = capsys.readouterr().out
    assert ("2 slow tests were not run; run them with: pytest -m slow" in said) == (not arguments)
    assert ("1 gpu test was not run; run it with: pytest -m gpu" in said) == (not arguments)


def test_tests_import_helpers_and_no_other_tests() -> None:
    for path in TESTS.rglob("*.py"):
        top = [node for node in ast.parse(path.read_text()).body if isinstance(node, ast.Import | ast.ImportFrom)]
        names = {name for node in top for name in _imported(node) if name.startswith("tests.")}
        own = f"tests.{path.parent.name}."  # a folder may share what it alone needs
        allowed = {name for name in names if name.startswith(("tests.helpers.", own))}
        assert names == allowed, path
        assert not any("conftest" in name or ".test_" in name for name in names), path


def _imported(node: ast.Import | ast.ImportFrom) -> list[str]:
    if isinstance(node, ast.ImportFrom):
        return [f"{node.module}.{alias.name}" for alias in node.names]
    return [alias.name for alias in node.names]
