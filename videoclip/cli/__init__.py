"""The ``videoclip`` command. Every subcommand is a few lines that call the library."""

from __future__ import annotations

import argparse
import io
import json
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from videoclip.cli import caching, classifying, comparing, data, ranking, training
from videoclip.cli.arguments import AddArguments, Command, seed
from videoclip.errors import VideoclipError, printable, printable_lines

LAST_RESORT = "Unexpected error"
KINDS = {
    MemoryError: "not enough memory",
    OSError: "the system refused a file or a connection",
    UnicodeError: "a text has characters that cannot be written or read here",
    RecursionError: "something is nested too deep",
    ImportError: "a package is missing or damaged",
}

HEAD_START = 10.0  # seconds that a launch's main process has to report an error before another process does


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a subcommand.

    Returns:
        0 if it did its work, 1 after an error, which is one sentence on stderr, 130 after an interruption, and 141 if
        whoever read the output has left (``videoclip ... | head``).
    """
    _escape_what_cannot_be_encoded()
    try:
        try:
            return _run(_parser().parse_args(arguments))
        finally:
            sys.stdout.flush()  # here, because an error at exit ends in Python's own words
    except OSError as error:
        return _lost_output(error)


def _run(args: argparse.Namespace) -> int:
    try:
        return args.command(args) or 0
    except KeyboardInterrupt:
        print("Interrupted. Progress is saved; rerun the same command to resume.", file=sys.stderr)
        return 130
    except Exception as error:
        if isinstance(error, OSError) and error.filename is None:
            print(flush=True)  # raises again where the output itself is what failed
        if args.debug:
            import traceback

            traceback.print_exc()
        message = str(error) if isinstance(error, VideoclipError) else _last_resort(error)
        _let_main_process_report()
        print(f"error: {printable_lines(message)}", file=sys.stderr)
        return 1


def _last_resort(error: Exception) -> str:
    """Say what kind of error nobody foresaw."""
    kind = next((words for kind, words in KINDS.items() if isinstance(error, kind)), "a fault of the program")
    detail = printable(" ".join(str(error).split()))[:300]
    what = f"{LAST_RESORT}, {kind} ({type(error).__name__}{': ' * bool(detail)}{detail})."
    return f"{what} Rerun the command with --debug to see the traceback, and please report it."


def _lost_output(error: OSError) -> int:
    """Give up a standard output that takes nothing more, without a word if its reader has left."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python would try again at exit
    if isinstance(error, BrokenPipeError):
        return 141  # the shell's number for SIGPIPE
    print(f"error: The output cannot be written ({error.strerror or error}).", file=sys.stderr)
    return 1


def _escape_what_cannot_be_encoded() -> None:
    """Let no id or file name end a command because the terminal's encoding lacks a character."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _let_main_process_report() -> None:
    """Wait, in every process of a launch but the main one, which will report the same error and end the launch."""
    if os.environ.get("RANK", "0") != "0":
        time.sleep(HEAD_START)


def demo(args: argparse.Namespace) -> None:
    """Write moving-shapes videos, cache, train, evaluate and re-rank; ends with a table and a report page."""
    from videoclip.demo import run_demo
    from videoclip.files import make_folder

    run_demo(make_folder(args.out), args.seed)


def info(args: argparse.Namespace) -> None:
    """Say what a video file, store, checkpoint or classifier is."""
    from videoclip.describe import describe

    for name, value in describe(args.path).items():
        text = json.dumps(value) if isinstance(value, dict | list) else str(value)
        print(f"{printable(name)}: {printable(text)}")


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
    sub.add_argument("--seed", type=seed, default=0)


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
