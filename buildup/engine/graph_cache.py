"""What was read from timm's models, remembered: loading torch and timm to read it again takes seconds."""

import hashlib
import json
from collections.abc import Callable
from fnmatch import fnmatch
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import buildup
from buildup.cache import user_cache
from buildup.errors import RequestError, unknown
from buildup.graph.network import Network
from buildup.graph.serialize import network_from_values, network_to_values
from buildup.store.run_dir import write_atomic

READERS = ("find.py", "read.py", "read_style.py", "stages.py", "stem.py", "trace.py")
"""The files of `models/` that what is read follows from."""
PIXELS, CLASSES = 32, 100
"""A table of scores names layouts, not images; networks are followed at the size of the published trace."""

Known = dict[str, Any]
"""What `buildup.models.catalogue.learn` gives."""


def cached_graph(base: str, stem: str, read: Callable[..., Network]) -> Network:
    """The staged graph of a base for images of 32 px and 100 classes.

    Args:
        base: A timm model.
        stem: auto, small or base.
        read: Makes the graph where it is not known.
    """
    name = f"graph-{base.replace('/', '_')}-{stem}"
    try:
        return network_from_values(recall(name))
    except (AttributeError, KeyError, TypeError, ValueError):
        pass  # not there, or not what was kept: made anew
    network = read(base, input_shape=(3, PIXELS, PIXELS), num_classes=CLASSES, stem=stem)
    remember(name, network_to_values(network))
    return network


def base_models(pattern: str | None, learn: Callable[[Known, str | None], Known]) -> list[dict[str, Any]]:
    """What is known of timm's names as bases, one row a name, sorted.

    Args:
        pattern: What names are like, with * for any letters; None for all convolutional ones.
        learn: Looks into what is not known yet.
    """
    known = recall("models")
    known = known if isinstance(known, dict) else {}
    if not _answers(known, pattern):
        known = learn(known, pattern)
        remember("models", known)
    rows = [
        {key: value for key, value in row.items() if key != "convolutional"}
        for name, row in sorted(known["rows"].items())
        if (fnmatch(name, pattern) if pattern else row["convolutional"])
    ]
    if not rows:
        raise RequestError(unknown("model", str(pattern), known["families"]))
    return rows


def _answers(known: Known, pattern: str | None) -> bool:
    if pattern is None:
        return bool(known.get("complete"))
    return bool(known) and all(name in known["rows"] for name in known["families"] if fnmatch(name, pattern))


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
