"""The source text of classes and functions, with all that they use: helpers, constants and imports.

What belongs to buildup or to the package of a block kind is copied. What comes from anywhere else is imported.
"""

import ast
import builtins
import inspect
import sys
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cache
from importlib import import_module
from importlib.util import resolve_name
from types import ModuleType
from typing import Any

from buildup.errors import ExportError


@dataclass(frozen=True, slots=True)
class Import:
    """One imported name."""

    module: str
    name: str = ""
    """Empty for the module itself."""
    alias: str = ""

    @property
    def bound(self) -> str:
        """The name in the file that imports it."""
        return self.alias or self.name or self.module.partition(".")[0]


@dataclass(frozen=True, slots=True)
class Sources:
    """Texts by name, each behind those that it uses, and the imports that they need."""

    texts: dict[str, str] = field(default_factory=dict)
    imports: dict[str, Import] = field(default_factory=dict)
    homes: dict[str, str] = field(default_factory=dict)
    """The module of each text."""
    started: set[str] = field(default_factory=set)

    def name(self, item: Any) -> str:
        """The expression for a class or function in the file, once all that it needs is there."""
        module = item.__module__
        if module.startswith("torch.nn."):
            self._import(Import("torch", "nn"))
            return f"nn.{item.__name__}"
        self._add(module, item.__name__, copied={"buildup", _root(module)})
        return str(item.__name__)

    def _add(self, module: str, name: str, copied: set[str]) -> None:
        if _root(module) not in copied or _root(module) in {"torch", "timm"}:
            self._import(Import(module, name))
            return
        home = import_module(module)
        node = _definitions(home).get(name)
        if isinstance(node, Import):
            self._follow(node, copied)
        elif node is not None and self.homes.setdefault(name, module) != module:
            raise ExportError(
                f"{module}.{name} and {self.homes[name]}.{name} can't be in one file. Rename one of them."
            )
        elif node is not None and name not in self.started:
            self.started.add(name)
            for used in _used(node):
                self._add(module, used, copied)
            lines = inspect.getsource(home).splitlines()
            self.texts[name] = "\n".join(lines[_first_line(node) - 1 : node.end_lineno])

    def _follow(self, one: Import, copied: set[str]) -> None:
        """Import what a copied text imports, or copy it where it is of the same package."""
        if _root(one.module) not in copied:
            self._import(one)
        elif one.name and not one.alias:
            self._add(one.module, one.name, copied)
        else:
            raise ExportError(
                f"{one.module} can't be exported, for it is imported as a whole or by another name. "
                f"Write `from {one.module} import ...` in what is exported."
            )

    def _import(self, one: Import) -> None:
        if self.imports.setdefault(one.bound, one) != one or one.bound in self.homes:
            raise ExportError(f"{one.module} can't be imported in one file: {one.bound} is something else there, too.")


def import_lines(imports: Iterable[Import]) -> str:
    """Import statements as ruff sorts them: the standard library first, whole modules before names."""
    found = set(imports)
    sections = []
    for standard in (True, False):
        ours = [one for one in found if (_root(one.module) in sys.stdlib_module_names) == standard]
        whole = sorted(f"import {one.module}{_as(one)}" for one in ours if not one.name)
        modules = sorted({one.module for one in ours if one.name})
        named = [
            f"from {module} import {', '.join(_members([one for one in ours if one.module == module and one.name]))}"
            for module in modules
        ]
        sections.append("\n".join([*whole, *named]))
    return "\n\n".join(section for section in sections if section)


def _members(imports: list[Import]) -> list[str]:
    ordered = sorted(imports, key=lambda one: (not one.name.isupper(), not one.name[0].isupper(), one.name))
    return [f"{one.name}{_as(one)}" for one in ordered]


def _as(one: Import) -> str:
    return f" as {one.alias}" if one.alias else ""


def _root(module: str) -> str:
    return module.partition(".")[0]


@cache
def _definitions(module: ModuleType) -> dict[str, ast.stmt | Import]:
    """What a module defines or imports at its top level, by name."""
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


def _used(node: ast.AST) -> list[str]:
    """The names that a definition reads, in the order of the text."""
    names = [one.id for one in ast.walk(node) if isinstance(one, ast.Name) and isinstance(one.ctx, ast.Load)]
    return [name for name in dict.fromkeys(names) if not hasattr(builtins, name)]


def _first_line(node: ast.stmt) -> int:
    decorators: list[ast.expr] = getattr(node, "decorator_list", [])
    return min([node.lineno, *(one.lineno for one in decorators)])
