"""One process at a time writes a run: its lock file names it."""

import fcntl
import os
import socket
from pathlib import Path
from typing import IO

from buildup.errors import RunError

LOCK = ".lock"


def take(folder: Path) -> IO[str]:
    """Take the run for this process."""
    if not folder.is_dir():
        raise RunError(f"{folder}: there is no such run.")
    file = (folder / LOCK).open("a+", encoding="utf-8")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        file.seek(0)
        holder = file.read().strip() or "unknown"
        file.close()
        raise RunError(
            f"{folder}: this run is being written by process {holder}. Wait for it, or end it first."
        ) from None
    file.truncate(0)
    file.write(f"{os.getpid()} on {socket.gethostname()}")
    file.flush()
    return file


def driver_of(folder: Path) -> str | None:
    """The process that writes a run, as `pid on host`; None when nobody does."""
    try:
        with (folder / LOCK).open(encoding="utf-8") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except OSError:
                return file.read().strip() or "unknown"
    except FileNotFoundError:
        pass
    return None
