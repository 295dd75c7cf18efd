"""The user's folder for what can be had again."""

import os
import sys
from pathlib import Path


def user_cache() -> Path:
    """Where the system wants such files; nothing is made here."""
    if sys.platform == "win32":
        cache = Path(os.environ.get("LOCALAPPDATA", Path.home() / "AppData" / "Local"))
    elif sys.platform == "darwin":
        cache = Path.home() / "Library" / "Caches"
    else:
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cache / "buildup"
