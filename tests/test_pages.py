"""Names that mean harm on terminals, pages and pictures: they are shown as they are, and nothing acts on them."""

from __future__ import annotations

import io
import os
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from videoclip import cli, escape
from videoclip.classify import report as classify_report
from videoclip.cli import LAST_RESORT, main
from videoclip.compare import bakeoff, probe
from videoclip.config import RunConfig, parse
from videoclip.data.manifest import Clip, read_manifest
from videoclip.errors import StoreError, printable, printable_lines
from videoclip.files import replace_text
from videoclip.retrieval.report import Example, write_report
from videoclip.training.card import model_card

HOSTILE = "<script>alert(1)</script>|`x`\n[red]$x$ $y$\x1b[2J\udcff![a](b)"
R1 = {"R@1": 50.0, "interval": [40.0, 60.0]}


def check_markdown(page: str, columns: dict[str, int]) -> None:
    """No markup of the name survives, and each of its rows has as many cells as its table."""
    assert "\x1b" not in page and "\udcff" not in page and "<script" not in page and "![a](b)" not in page
    rows = [line for line in page.splitlines() if "alert(1)" in line and line.startswith("|")]
    assert rows
    for row in rows:
        cells = row.replace(r"\|", "").count("|") - 1
        assert cells in columns.values(), row


def test_markdown_of_a_bench() -> None:
    row = {"method": HOSTILE, "shots": 1, "accuracy": 50.0, "interval": [40.0, 60.0], "seconds": 1.0, "labelled": True}
    page = classify_report.markdown({"shots": [1], "rows": [row], "differences": []})
    check_markdown(page, {"bench": 4})


def test_markdown_of_a_bakeoff() -> None:
    cost = {"parameters": 1, "multiply_adds": 1e9, "milliseconds": 1.0, "mib": 1.0, "texts_timed": 1000}
    rows = [{"name": name, "text_to_video": R1, "video_to_text": R1, "cost": cost} for name in (HOSTILE, "b")]
    verdicts = {HOSTILE: {"b": "better"}, "b": {HOSTILE: "worse"}}
    check_markdown(bakeoff.markdown({"rows": rows, "verdicts": verdicts}), {"results": 8, "verdicts": 3})


def probed() -> dict[str, Any]:
    orders = {name: R1 | {"change": 1.0} for name in ("in order", "reversed")}
    return {HOSTILE: {"orders": orders, "budgets": {str(count): R1 for count in probe.BUDGETS}}}


def test_markdown_and_picture_of_a_probe(tmp_path: Path) -> None:
    check_markdown(probe.markdown(probed()), {"orders": 4, "budgets": 1 + len(probe.BUDGETS)})
    probe.plot(probed(), tmp_path / "probe.png")
    assert (tmp_path / "probe.png").read_bytes()[:4] == b"\x89PNG"


@pytest.mark.parametrize("name", [HOSTILE, r"$\frac{$", "$a$", "$", r"\$x$", "_hidden", "$$$", "a\tb"])
def test_pictures_take_no_name_for_a_formula(name: str, tmp_path: Path) -> None:
    from matplotlib.text import Text

    shown, is_formula = Text(text=escape.plotted(name))._preprocess_math(escape.plotted(name))
    assert not is_formula and shown == printable(name)
    classify_report.plot_confusion(torch.eye(2), [name, "b"], tmp_path / "c.png")
    row = {"method": name, "shots": 1, "accuracy": 50.0, "labelled": True}
    classify_report.plot({"shots": [1], "rows": [row]}, tmp_path / "b.png")
    assert (tmp_path / "c.png").stat().st_size and (tmp_path / "b.png").stat().st_size


def test_the_card_of_a_run() -> None:
    data = {"manifest": "m.jsonl", "store": "s", "test": [HOSTILE], "protocol": "a\n\n```\n\n<script>"}
    config = parse({"data": data, "model": {"backbone": {"name": HOSTILE, "pretrained": HOSTILE}}}, RunConfig, "c")
    metrics = {f"text_to_video/{column}": 1.0 for column in ("R@1", "R@5", "R@10", "median_rank", "mean_rank", "tied")}
    found = metrics | {"interval": [0.0, 2.0], "texts": 1, "videos": 1, "missing": 0, "protocol": {"name": HOSTILE}}
    report = {"parameters": 1, "best_epoch": 0, "selected_by": "x", "seed": 0, "processes": 1, "store": HOSTILE}
    report |= {"test": {HOSTILE: found}, "repeats": {"same_video": 0, "same_caption": 0}}
    page = model_card(config, report)
    above, _, block = page.partition("## Config")
    check_markdown(above.replace(escape.code(HOSTILE), ""), {"test": 11})
    assert block.split("\n")[2].startswith("````") and block.count("````") == 2


def test_the_demo_page(shapes: Path, tmp_path: Path) -> None:
    clip: Clip = read_manifest(shapes)[0]
    example = Example(HOSTILE, 1.0, [(HOSTILE, Path(clip.path), [0.5, 0.5])])
    result = {"text_to_video/R@1": 50.0, "interval": [40.0, 60.0]}
    rows = [{"name": HOSTILE, HOSTILE: result, "parameters": 1, "seconds": 1.0}]
    rerank = {"before": {HOSTILE: 1.0}, "after": {HOSTILE: 2.0}}
    results = {"seed": 0, "seconds": 1.0, "rows": rows, "rerank": rerank}
    write_report(tmp_path / "page.html", results, [example], [HOSTILE])
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "<script" not in page and "\x1b" not in page and page.count("&lt;script&gt;") >= 5


def test_rich_shows_names_as_they_are() -> None:
    shown = io.StringIO()
    console = Console(file=shown, force_terminal=False, width=300)
    console.print(printable(HOSTILE), style="bold", markup=False, highlight=False)
    assert shown.getvalue() == printable(HOSTILE) + "\n"


def test_printable_lines_keep_lines_and_nothing_else() -> None:
    assert printable_lines("a\x1b[2J\nb\r\udcff") == "a\\x1b[2J\nb\\r\\udcff"


def failing(error: Exception) -> Any:
    def broken(args: object) -> None:
        """Fail."""
        raise error

    return broken


@pytest.mark.parametrize(
    "error",
    [KeyError("x"), MemoryError(), OSError(5, "Input/output error"), RecursionError(), ZeroDivisionError("\x1b")],
)
def test_the_last_resort_is_one_line(
    error: Exception, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(cli, "COMMANDS", {failing(error): lambda sub: None})
    assert main(["broken"]) == 1
    err = capsys.readouterr().err
    assert err.startswith(f"error: {LAST_RESORT}") and "--debug" in err and err.count("\n") == 1
    assert err[:-1].isprintable() and "Traceback" not in err
    assert main(["broken", "--debug"]) == 1
    assert "Traceback (most recent call last)" in capsys.readouterr().err


def printing(args: object) -> None:
    """Print."""
    print("a line\udcff" * 10_000)


def test_a_device_that_is_full(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    if not Path("/dev/full").is_char_device():
        pytest.skip("no /dev/full on this system")
    with open("/dev/full", "w") as full:
        monkeypatch.setattr(sys, "stdout", full)
        monkeypatch.setattr(cli, "COMMANDS", {printing: lambda sub: None})
        assert main(["printing"]) == 1
    err = capsys.readouterr().err
    assert err == "error: The output cannot be written (No space left on device).\n"


def test_a_reader_that_has_left(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with open(writing, "w") as pipe:
        monkeypatch.setattr(sys, "stdout", pipe)
        monkeypatch.setattr(cli, "COMMANDS", {printing: lambda sub: None})
        assert main(["printing"]) == 141
    assert capsys.readouterr().err == ""


def test_a_pipe_and_a_link_are_written_to_and_not_replaced(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    replace_text(tmp_path / "pipe", "text")
    assert os.read(reader, 10) == b"text" and (tmp_path / "pipe").is_fifo()
    os.close(reader)

    (tmp_path / "file").write_text("old")
    (tmp_path / "link").symlink_to(tmp_path / "file")
    replace_text(tmp_path / "link", "new")
    assert (tmp_path / "link").is_symlink() and (tmp_path / "file").read_text() == "new"
    with pytest.raises(StoreError, match=r"Cannot write to .*Is a directory"):
        replace_text(tmp_path, "text")
