"""Plain values and calls as Python source text, wrapped at 120 columns as ruff wraps them."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

WIDTH = 120


@dataclass(frozen=True, slots=True)
class Name:
    """An expression that is written as it stands."""

    text: str


@dataclass(frozen=True, slots=True)
class Call:
    """A call of a function, by name."""

    function: str
    positional: tuple[Any, ...] = ()
    named: Mapping[str, Any] = field(default_factory=dict)


def written(value: Any, before: str = "", *, after: str = "", indent: str = "") -> str:
    """The text of a value behind what stands before it, over several lines where one is too short.

    >>> written(("a", 1, None), "VALUES = ")
    'VALUES = ("a", 1, None)'
    """
    line = f"{before}{_flat(value)}{after}"
    if len(indent) + len(line) <= WIDTH or not isinstance(value, Mapping | tuple | list | Call):
        return line
    opening, entries, closing = _parts(value)
    inner = f"{indent}    "
    lines = [f"{inner}{written(item, name, after=',', indent=inner)}" for name, item in entries]
    return "\n".join([f"{before}{opening}", *lines, f"{indent}{closing}{after}"])


def _flat(value: Any) -> str:
    if isinstance(value, Name):
        return value.text
    if isinstance(value, str):
        return json.dumps(value)
    if not isinstance(value, Mapping | tuple | list | Call):
        return repr(value)
    opening, entries, closing = _parts(value)
    inside = ", ".join(f"{name}{_flat(item)}" for name, item in entries)
    comma = "," if isinstance(value, tuple) and len(value) == 1 else ""
    return f"{opening}{inside}{comma}{closing}"


def _parts(value: Any) -> tuple[str, list[tuple[str, Any]], str]:
    """What opens a value of several entries, those with what stands before each, and what closes it."""
    if isinstance(value, Mapping):
        return "{", [(f"{_flat(name)}: ", item) for name, item in value.items()], "}"
    if isinstance(value, Call):
        named = [(f"{name}=", item) for name, item in value.named.items()]
        return f"{value.function}(", [*(("", item) for item in value.positional), *named], ")"
    opening, closing = "()" if isinstance(value, tuple) else "[]"
    return opening, [("", item) for item in value], closing
