"""Python source text: of classes and functions with all that they use, and of plain values and calls.

Classes and functions of buildup or of the package of a block kind are copied. Those of other packages are imported.
"""

import ast
import builtins
import inspect
import json
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib import import_module
from importlib.util import resolve_name
from types import ModuleType
from typing import Any

from buildup.errors import ExportError

WIDTH = 120
"""Longer lines are wrapped, in the way of ruff."""


@dataclass(frozen=True, slots=True)
class Import:
    """One imported name, or a whole module if the name is empty."""

    module: str
    name: str = ""
    alias: str = ""

    @property
    def bound(self) -> str:
        """The name in the importing file."""
        return self.alias or self.name or self.module.partition(".")[0]

    @property
    def clause(self) -> str:
        """The text after `import`."""
        return f"{self.name or self.module}{f' as {self.alias}' if self.alias else ''}"


@dataclass(frozen=True, slots=True)
class Sources:
    """Definitions for one file, each after those that it uses, and the imports that they need."""

    texts: dict[str, str] = field(default_factory=dict)
    imports: dict[str, Import] = field(default_factory=dict)
    homes: dict[str, str] = field(default_factory=dict)
    """The module of each text."""

    def name(self, item: Any) -> str:
        """The expression for a class or function in the file; adds what it needs to the file."""
        module = item.__module__
        if module.startswith("torch.nn."):
            self._import(Import("torch", "nn"))
            return f"nn.{item.__name__}"
        self._add(module, item.__name__, copied={"buildup", _root(module)} - {"torch", "timm"})
        return str(item.__name__)

    def _add(self, module: str, name: str, copied: set[str]) -> None:
        if _root(module) not in copied:
            self._import(Import(module, name))
            return
        home = import_module(module)
        node = _definitions(home).get(name)
        if isinstance(node, Import) and _root(node.module) not in copied:
            self._import(node)
        elif isinstance(node, Import):
            if not node.name or node.alias:
                raise ExportError(
                    f"{node.module} can't be exported, for it is imported as a whole or by another name. "
                    f"Write `from {node.module} import ...` in what is exported."
                )
            self._add(node.module, node.name, copied)
        elif node is not None and self.homes.get(name, module) != module:
            raise ExportError(
                f"{module}.{name} and {self.homes[name]}.{name} can't be in one file. Rename one of them."
            )
        elif node is not None and name not in self.homes:
            self.homes[name] = module
            for used in ast.walk(node):
                if isinstance(used, ast.Name) and isinstance(used.ctx, ast.Load) and not hasattr(builtins, used.id):
                    self._add(module, used.id, copied)
            decorators: list[ast.expr] = getattr(node, "decorator_list", [])
            first = min(one.lineno for one in (node, *decorators) if isinstance(one, ast.stmt | ast.expr))
            self.texts[name] = "\n".join(inspect.getsource(home).splitlines()[first - 1 : node.end_lineno])

    def _import(self, one: Import) -> None:
        if self.imports.setdefault(one.bound, one) != one or one.bound in self.homes:
            raise ExportError(f"{one.module} can't be imported in one file: {one.bound} is something else there, too.")


def _root(module: str) -> str:
    return module.partition(".")[0]


@cache
def _definitions(module: ModuleType) -> dict[str, ast.stmt | Import]:
    found: dict[str, ast.stmt | Import] = {}
    for node in ast.parse(inspect.getsource(module)).body:
        match node:
            case ast.ClassDef() | ast.FunctionDef():
                found[node.name] = node
            case ast.Assign(targets=[ast.Name(id=name)]) | ast.AnnAssign(target=ast.Name(id=name)):
                found[name] = node
            case ast.Import():
                imports = [Import(one.name, alias=one.asname or "") for one in node.names]
                found |= {one.bound: one for one in imports}
            case ast.ImportFrom():
                home = resolve_name("." * node.level + (node.module or ""), module.__package__ or "")
                named = [Import(home, one.name, one.asname or "") for one in node.names]
                found |= {one.bound: one for one in named}
            case _:
                pass
    return found


def import_lines(imports: Iterable[Import]) -> str:
    """Import statements as ruff sorts them: the standard library first, whole modules before names."""
    sections = []
    for standard in (True, False):
        found = {one for one in imports if (_root(one.module) in sys.stdlib_module_names) == standard}
        whole = sorted(f"import {one.clause}" for one in found if not one.name)
        names: dict[str, list[str]] = {}
        order = sorted(
            (one for one in found if one.name),
            key=lambda one: (one.module, not one.name.isupper(), not one.name[0].isupper(), one.name),
        )
        for one in order:
            names.setdefault(one.module, []).append(one.clause)
        sections.append("\n".join([*whole, *(f"from {module} import {', '.join(of)}" for module, of in names.items())]))
    return "\n\n".join(section for section in sections if section)


@dataclass(frozen=True, slots=True)
class Expression:
    """An expression that is written as it stands."""

    text: str


@dataclass(frozen=True, slots=True)
class FunctionCall:
    function: str
    positional: tuple[Any, ...] = ()
    named: Mapping[str, Any] = field(default_factory=dict)


def to_source(value: Any, before: str = "", *, after: str = "", indent: str = "") -> str:
    """The text of a plain value, an `Expression`, a `FunctionCall`, or a collection, over several lines if needed.

    `before` and `after` stand around it. `indent` is what its lines begin with, but the first.

    >>> to_source(("a", 1, None), "VALUES = ")
    'VALUES = ("a", 1, None)'
    """
    line = f"{before}{_flat(value)}{after}"
    if len(indent) + len(line) <= WIDTH or not isinstance(value, Mapping | tuple | list | FunctionCall):
        return line
    opening, entries, closing = _parts(value)
    inner = f"{indent}    "
    lines = [f"{inner}{to_source(item, name, after=',', indent=inner)}" for name, item in entries]
    return "\n".join([f"{before}{opening}", *lines, f"{indent}{closing}{after}"])


def _flat(value: Any) -> str:
    if isinstance(value, Expression):
        return value.text
    if isinstance(value, str):
        return json.dumps(value)
    if not isinstance(value, Mapping | tuple | list | FunctionCall):
        return repr(value)
    opening, entries, closing = _parts(value)
    inside = ", ".join(f"{name}{_flat(item)}" for name, item in entries)
    comma = "," if isinstance(value, tuple) and len(value) == 1 else ""
    return f"{opening}{inside}{comma}{closing}"


def _parts(value: Any) -> tuple[str, list[tuple[str, Any]], str]:
    """The opening of a collection, its entries as prefix and value, and its closing."""
    if isinstance(value, Mapping):
        return "{", [(f"{_flat(name)}: ", item) for name, item in value.items()], "}"
    if isinstance(value, FunctionCall):
        named = [(f"{name}=", item) for name, item in value.named.items()]
        return f"{value.function}(", [*(("", item) for item in value.positional), *named], ")"
    opening, closing = "()" if isinstance(value, tuple) else "[]"
    return opening, [("", item) for item in value], closing
