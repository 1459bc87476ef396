"""Who may import whom: a file imports only from floors below its own; libraries stay in the files that wrap them."""

from __future__ import annotations

import ast
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "videoclip"
FLOORS = {
    1: "errors limits escape files scratch features layers registry config loss metrics video data",
    2: "backbone temporal similarity",
    3: "tuning store classifier",
    4: "model convert",
    5: "training classify retrieval synthetic weights",
    6: "cli compare demo describe",
}
FLOOR = {name: floor for floor, names in FLOORS.items() for name in names.split()}
ONLY = {
    "open_clip": {"backbone/openclip.py"},
    "decord": {"video/decode.py"},
    "av": {"video/probe.py", "video/decode.py", "video/encode.py"},
    "accelerate": {"training/", "store/launch.py"},
    "peft": {"tuning/lora.py"},
    "sklearn": {"classifier/linear_probe.py"},
}
FILES = sorted(PACKAGE.rglob("*.py"))


@cache
def imports(path: Path) -> set[str]:
    """Dotted names that a file imports, those for type checkers alone left out."""
    found: set[str] = set()

    def visit(node: ast.AST) -> None:
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            return
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        if isinstance(node, ast.ImportFrom) and node.module:
            found.update([f"{node.module}.{alias.name}" for alias in node.names])
        for child in ast.iter_child_nodes(node):
            visit(child)

    visit(ast.parse(path.read_text()))
    return found


def unit(path: Path) -> str:
    parts = path.relative_to(PACKAGE).parts
    return parts[0].removesuffix(".py")


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_floors(path: Path) -> None:
    own = unit(path)
    if own == "__init__":
        return
    for name in imports(path):
        parts = name.split(".")
        if parts[0] != "videoclip" or len(parts) < 2 or parts[1] == own:
            continue
        other = parts[1]
        if FLOOR[own] == 5 and ".".join(parts[1:3]) == "training.evaluate":
            continue
        assert not (own in ("temporal", "similarity") and other == "backbone"), name
        allowed = FLOOR[other] < FLOOR[own] or (FLOOR[other] == FLOOR[own] <= 4) or FLOOR[own] == 6
        assert allowed, f"{path.relative_to(ROOT)} (floor {FLOOR[own]}) imports {name} (floor {FLOOR[other]})"


@pytest.mark.parametrize("library", ONLY)
def test_libraries_stay_where_they_are_wrapped(library: str) -> None:
    users = [
        str(path.relative_to(PACKAGE)) for path in FILES if any(name.split(".")[0] == library for name in imports(path))
    ]
    assert users, library
    assert all(any(user.startswith(place) for place in ONLY[library]) for user in users), users


def test_there_are_no_circles() -> None:
    graph: dict[str, set[str]] = {}
    for path in FILES:
        own = unit(path)
        others = {n.split(".")[1] for n in imports(path) if n.startswith("videoclip.") and len(n.split(".")) > 1}
        graph.setdefault(own, set()).update(o for o in others if o in FLOOR and o != own)
    done: set[str] = set()

    def walk(node: str, way: tuple[str, ...]) -> None:
        assert node not in way, f"circle: {' -> '.join((*way, node))}"
        if node not in done:
            for other in graph.get(node, ()):
                walk(other, (*way, node))
            done.add(node)

    for node in graph:
        if node != "__init__":
            walk(node, ())


def test_every_unit_has_a_floor() -> None:
    assert {unit(path) for path in FILES} - {"__init__"} <= set(FLOOR)


def test_importing_videoclip_loads_nothing_heavy() -> None:
    heavy = "{'torch', 'open_clip', 'decord', 'av', 'accelerate', 'torchvision', 'numpy'}"
    code = f"import sys, videoclip; assert not {heavy} & set(sys.modules), {heavy} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_functions_and_files_stay_readable() -> None:
    for path in [*FILES, *sorted((ROOT / "tools").glob("*.py"))]:
        text = path.read_text()
        assert len(text.splitlines()) <= 400, path
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef):
                assert (node.end_lineno or 0) - node.lineno < 60, f"{path}: {node.name}"
