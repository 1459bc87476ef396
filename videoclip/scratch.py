"""A folder for a process's temporary files that does not stay behind, however the process ends."""

from __future__ import annotations

import atexit
import contextlib
import functools
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import IO

if sys.platform != "win32":
    import fcntl

PREFIX = "videoclip-"  # short: the path of a socket inside may have 108 characters


@functools.cache
def scratch_folder() -> Path:
    """Return this process's folder for temporary files; those of processes that were killed are removed first.

    The owner holds a lock on its folder as long as it lives, however it ends: what can be locked belongs to nobody.
    """
    root = Path(tempfile.gettempdir())
    for folder in root.glob(f"{PREFIX}*"):
        with contextlib.suppress(OSError):
            old = time.time() - folder.stat().st_mtime > 60  # its owner may be about to lock it
            lock = _locked(folder) if old else None
            if lock is not None:
                shutil.rmtree(folder, ignore_errors=True)
                lock.close()

    folder = Path(tempfile.mkdtemp(prefix=PREFIX))
    lock = _locked(folder)
    atexit.register(_leave, folder, lock, os.getpid())
    return folder


def _locked(folder: Path) -> IO[bytes] | None:
    """Lock a scratch folder; None if its owner is alive, or where the system has no such locks."""
    if sys.platform == "win32":
        return None
    file = (folder / "lock").open("wb")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        file.close()
        return None
    return file


def _leave(folder: Path, lock: IO[bytes] | None, owner: int) -> None:
    """Remove the scratch folder of a process that ends; children that were forked off leave it alone."""
    if os.getpid() == owner:
        shutil.rmtree(folder, ignore_errors=True)
    if lock is not None:
        lock.close()
