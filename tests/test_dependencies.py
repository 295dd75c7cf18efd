"""What is imported is declared: pyproject.toml names each package itself, not only one that brings it along."""

import ast
import re
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
OWN = {"buildup"}
NEVER_IMPORTED = {
    "scikit-learn",  # its files hold the digits
    "psycopg2-binary",  # SQLAlchemy imports it for a URL of PostgreSQL
    "onnx",  # with onnxscript, what torch.onnx needs
    "onnxscript",
}
"""Declared for another reason than an import of our own."""


def imported(folder: Path) -> set[str]:
    """The top-level modules that the files of a folder import, without the standard library and the folder's own."""

    def names() -> Iterator[str]:
        for path in folder.rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Import):
                    yield from (alias.name for alias in node.names)
                elif isinstance(node, ast.ImportFrom):
                    yield node.module or ""

    return {name.partition(".")[0] for name in names()} - sys.stdlib_module_names - OWN


def declared(*extras: str) -> set[str]:
    """The packages of the project and of some extras, by their names in lower case."""
    lines = [*PROJECT["dependencies"], *(line for extra in extras for line in PROJECT["optional-dependencies"][extra])]
    return {re.split(r"[\[><=~! ;]", line)[0].lower().replace("_", "-") for line in lines}


def packages(modules: set[str]) -> dict[str, set[str]]:
    """The packages that may bring each module, by their names in lower case."""
    known = packages_distributions()
    return {module: {name.lower().replace("_", "-") for name in known.get(module, ())} for module in modules}


def test_each_import_of_buildup_is_declared() -> None:
    brought = packages(imported(ROOT / "buildup"))
    assert {module for module, names in brought.items() if not names & declared("onnx")} == set()


@pytest.mark.parametrize("folder", ["tests", "bench"])
def test_each_import_of_tests_and_benchmarks_is_declared(folder: str) -> None:
    own = {path.stem for place in ("bench", "tests/fakes") for path in (ROOT / place).glob("*.py")} | {"tests", "bench"}
    brought = packages(imported(ROOT / folder) - own)
    assert {module for module, names in brought.items() if not names & declared("onnx", "dev")} == set()


def test_each_dependency_is_imported_or_has_another_reason() -> None:
    used = set().union(*packages(imported(ROOT / "buildup")).values())
    assert declared("onnx", "postgres") - used == NEVER_IMPORTED
