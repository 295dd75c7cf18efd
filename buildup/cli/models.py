"""`models`: which names of timm can be a base, remembered, so that asking again takes no torch."""

from collections.abc import Callable, Mapping
from fnmatch import fnmatch
from importlib.metadata import version
from typing import Any

from buildup.engine.graph_cache import recall, remember
from buildup.errors import RequestError, unknown

Known = dict[str, Any]


def models(flags: Mapping[str, Any], learn: Callable[[Known, str | None], Known]) -> tuple[str, Any]:
    """Which convolutional names can be a base, or which of a pattern's, and for the others why not."""
    pattern: str | None = flags["pattern"]
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
    return _text(rows, pattern), rows


def _answers(known: Known, pattern: str | None) -> bool:
    if pattern is None:
        return bool(known.get("complete"))
    return bool(known) and all(name in known["rows"] for name in known["families"] if fnmatch(name, pattern))


def _text(rows: list[dict[str, Any]], pattern: str | None) -> str:
    fit = [row for row in rows if row["supported"]]
    width = max((len(row["name"]) for row in fit), default=0)
    lines = [f"{row['name']:{width}}  {row['stages']} stages, {row['positions']} blocks can be replaced" for row in fit]
    lines += [row["reason"] for row in rows if not row["supported"]]
    if len(rows) > 1:
        what = f"names like {pattern}" if pattern else f"convolutional names of timm {version('timm')}"
        lines += ["", f"{len(fit)} of {len(rows)} {what} can be a base."]
    return "\n".join(lines)
