"""What was read from timm's models, remembered: loading torch and timm to read it again takes seconds."""

import hashlib
import json
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import buildup
from buildup.cache import user_cache
from buildup.store.atomic_write import write_atomic

READERS = ("find.py", "form.py", "read.py", "stages.py", "stem.py", "trace.py")
"""The files of `models/` that what is read follows from."""


def recall(name: str) -> Any:
    """The plain values of a name; None where there are none."""
    try:
        return json.loads((_folder() / f"{name}.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def remember(name: str, values: Any) -> None:
    """Keep the plain values of a name."""
    try:
        _folder().mkdir(parents=True, exist_ok=True)
        write_atomic(_folder() / f"{name}.json", json.dumps(values).encode())
    except OSError:
        return  # A home that can't be written to only makes the next call slower.


def _folder() -> Path:
    return user_cache() / f"timm-{version('timm')}-{_reading()}"


@cache
def _reading() -> str:
    """Changes with what reads timm's models."""
    folder = Path(buildup.__file__).parent / "models"
    return hashlib.sha256(b"".join((folder / name).read_bytes() for name in READERS)).hexdigest()[:8]
