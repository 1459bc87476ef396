"""The ``videoclip`` command. Every subcommand is a few lines that call the library."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from videoclip.cli import caching, classifying, comparing, data, ranking, training
from videoclip.cli.arguments import AddArguments, Command
from videoclip.errors import VideoclipError

HEAD_START = 10.0  # seconds that a launch's main process has to report an error before another process does


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a subcommand; 0 if it did its work, 1 after an error, which is told in one sentence."""
    args = _parser().parse_args(arguments)
    try:
        args.command(args)
    except VideoclipError as error:
        if args.debug:
            raise
        _let_main_process_report()
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("stopped; what is committed stays, the same command goes on from there", file=sys.stderr)
        return 130
    return 0


def _let_main_process_report() -> None:
    """Wait, in every process of a launch but the main one, which will report the same error and end the launch."""
    if os.environ.get("RANK", "0") != "0":
        time.sleep(HEAD_START)


def demo(args: argparse.Namespace) -> None:
    """Write moving-shapes videos, cache, train, evaluate and re-rank; ends with a table and a report page."""
    from videoclip.demo import run_demo

    run_demo(args.out, args.seed)


def info(args: argparse.Namespace) -> None:
    """Say what a video file, store, checkpoint or classifier is."""
    from videoclip.describe import describe

    for name, value in describe(args.path).items():
        print(f"{name}: {json.dumps(value) if isinstance(value, dict | list) else value}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="videoclip", description="CLIP for video.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for command, add_arguments in COMMANDS.items():
        assert command.__doc__
        sub = commands.add_parser(command.__name__, help=command.__doc__, description=command.__doc__)
        sub.add_argument("--debug", action="store_true", help="show the traceback of an error")
        sub.set_defaults(command=command)
        add_arguments(sub)
    return parser


def _demo_arguments(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("--out", type=Path, default=Path("demo"), help="folder for videos, store, checkpoints, report")
    sub.add_argument("--seed", type=int, default=0)


def _info_arguments(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("path", type=Path)


COMMANDS: dict[Command, AddArguments] = {
    demo: _demo_arguments,
    **data.COMMANDS,
    **caching.COMMANDS,
    **training.COMMANDS,
    **classifying.COMMANDS,
    **comparing.COMMANDS,
    **ranking.COMMANDS,
    info: _info_arguments,
}
