"""The user's folder for what can be had again, and files that are whole after a crash or a power cut, old or new."""

import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def replacing(path: Path, mode: int = 0o644) -> Iterator[Path]:
    """A temporary file that takes a path when it is complete. After an error, half of it would fill the disk.

    Its name is new each time: two processes that write one path, as after a lost connection to a node, each write
    their own file, and the last one stays.
    """
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())  # else, after a power cut, the name may be there without the contents
        temporary.chmod(mode)
        temporary.replace(path)
        _keep_names(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def _keep_names(folder: Path) -> None:
    """Write the names in a folder to the disk. Some systems can't, and keep them anyway."""
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def user_cache() -> Path:
    """Where the system wants such files; nothing is made here."""
    if sys.platform == "win32":
        cache = Path(os.environ.get("LOCALAPPDATA", Path.home() / "AppData" / "Local"))
    elif sys.platform == "darwin":
        cache = Path.home() / "Library" / "Caches"
    else:
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cache / "buildup"
