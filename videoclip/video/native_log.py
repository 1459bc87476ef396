"""What native code writes to standard error: the only sign that decord gives of a damaged picture."""

from __future__ import annotations

import contextlib
import os
import re
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator

FFMPEG_LINE = re.compile(rb"^\[\w[^@\n]* @ 0x[0-9a-f]+\].*\n?", re.MULTILINE)
_one_at_a_time = threading.Lock()  # standard error belongs to the whole process


@contextlib.contextmanager
def ffmpeg_complaints() -> Iterator[Callable[[], int]]:
    """Count the lines that FFmpeg writes while the block runs; they are not shown, all other text is, afterwards.

    A second thread inside such a block, a process without standard error, or one on Windows counts nothing.
    """
    if sys.platform == "win32" or not _one_at_a_time.acquire(blocking=False):
        yield lambda: 0
        return
    try:
        sys.stderr.flush()
        shown = os.dup(2)
    except (OSError, AttributeError):
        _one_at_a_time.release()
        yield lambda: 0
        return
    try:
        with tempfile.TemporaryFile() as file:
            os.dup2(file.fileno(), 2)
            try:
                yield lambda: len(FFMPEG_LINE.findall(_content(file.fileno())))
            finally:
                sys.stderr.flush()
                os.dup2(shown, 2)
                os.write(2, FFMPEG_LINE.sub(b"", _content(file.fileno())))
    finally:
        os.close(shown)
        _one_at_a_time.release()


def _content(descriptor: int) -> bytes:
    """All that was written so far; the descriptor's place, where the next line goes, stays."""
    return os.pread(descriptor, os.fstat(descriptor).st_size, 0)
