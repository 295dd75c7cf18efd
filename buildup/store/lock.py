"""One process at a time writes a run: its lock file names it. The system frees the lock when that process ends."""

import os
import socket
import time
from pathlib import Path
from typing import IO

from filelock import lock_descriptor

from buildup.errors import RunError

LOCK = ".lock"
TRIES = 5
"""Who only asks for the driver holds the lock for an instant, too, so a lock counts as taken after so many tries."""
PAUSE = 0.02
"""Seconds between two of them."""


def take(folder: Path) -> IO[str]:
    """Take the run for this process, until the file is closed."""
    if not folder.is_dir():
        raise RunError(f"{folder}: there is no such run.")
    file = (folder / LOCK).open("a+", encoding="utf-8")
    if not _locked(file):
        file.seek(0)
        holder = file.read().strip() or "unknown"
        file.close()
        raise RunError(f"{folder}: this run is being written by process {holder}. Wait for it, or end it first.")
    file.truncate(0)
    file.write(f"{os.getpid()} on {socket.gethostname()}")
    file.flush()
    return file


def driver_of(folder: Path) -> str | None:
    """The process that writes a run, as `pid on host`; None when nobody does."""
    try:
        with (folder / LOCK).open(encoding="utf-8") as file:
            return None if _locked(file) else file.read().strip() or "unknown"
    except FileNotFoundError:
        return None


def _locked(file: IO[str]) -> bool:
    """Lock an open file, if no other process holds it."""
    for _ in range(TRIES):
        if lock_descriptor(file.fileno(), blocking=False):
            return True
        time.sleep(PAUSE)
    return False
