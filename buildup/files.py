"""Files that are whole after a crash or a power cut, old or new, a cache of what can be had again, and CPU cores.

And which names of spaces and recipes are files.
"""

import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

PAUSES = (0.01, 0.05, 0.2, 1.0)
"""Seconds between tries to replace a file that is being read."""


@contextmanager
def replacing(path: Path, mode: int = 0o644) -> Iterator[Path]:
    """A temporary file that takes the place of a path once it is complete, and is deleted after an error.

    Its name is new each time: two processes that write one path, as after a lost connection to a node, each write their
    own file, and the last one stays.
    """
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        with temporary.open("r+b") as file:  # Windows writes only what is open for writing to its disk
            os.fsync(file.fileno())  # else, after a power cut, the name may be there without the contents
        temporary.chmod(mode)
        _replace(temporary, path)
        _keep_names(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def _replace(temporary: Path, path: Path) -> None:
    """Windows replaces no file that another process reads just now, so it is tried again there."""
    for pause in PAUSES if os.name == "nt" else ():
        try:
            temporary.replace(path)
            return
        except PermissionError:
            time.sleep(pause)
    temporary.replace(path)


def _keep_names(folder: Path) -> None:
    """Write the names in a folder to the disk. Some systems can't, and keep them anyway."""
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def write_atomic(path: Path, content: bytes, mode: int = 0o644) -> None:
    """Write a file so that a reader sees either the old or the new content, also after a crash."""
    with replacing(path, mode) as temporary:
        temporary.write_bytes(content)


def recall(path: Path) -> Any:
    """The values of a JSON file in the cache; None if there are none."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def remember(path: Path, values: Any) -> None:
    """Write plain values into the cache, as far as that is possible: without it, only the next call is slower."""
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, json.dumps(values).encode())


def is_file_name(name: str) -> bool:
    """Whether the name of a space or a recipe is the path of a file, not one that ships.

    >>> is_file_name("paper"), is_file_name("paper.yaml"), is_file_name("mine/paper")
    (False, True, True)
    """
    return Path(name).suffix in {".yaml", ".yml"} or len(Path(name).parts) > 1


def user_cache() -> Path:
    """The user's folder for what can be had again; nothing is made here."""
    if sys.platform == "win32":
        cache = Path(os.environ.get("LOCALAPPDATA", Path.home() / "AppData" / "Local"))
    elif sys.platform == "darwin":
        cache = Path.home() / "Library" / "Caches"
    else:
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cache / "buildup"


def cores() -> int:
    """How many CPU cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
