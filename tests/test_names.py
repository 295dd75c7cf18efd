"""One word, one meaning: a public name stands in one module, and files are small enough to read in one sitting."""

import ast
from collections import defaultdict
from pathlib import Path

import buildup

PACKAGE = Path(buildup.__file__).parent
ROOT = PACKAGE.parent


def trees() -> dict[str, ast.Module]:
    return {
        str(path.relative_to(PACKAGE)): ast.parse(path.read_text(encoding="utf-8"))
        for path in sorted(PACKAGE.rglob("*.py"))
    }


def test_no_public_name_stands_in_two_modules() -> None:
    places: dict[str, set[str]] = defaultdict(set)
    for place, tree in trees().items():
        if place.startswith("cli/") or place == "__main__.py":  # functions there are named after their commands
            continue
        for node in tree.body:
            if isinstance(node, ast.ClassDef | ast.FunctionDef) and not node.name.startswith("_"):
                places[node.name].add(place)
    twice = {name: found for name, found in places.items() if len(found) > 1}
    assert twice == {}


def test_a_constant_that_other_modules_import_has_one_home() -> None:
    homes: dict[str, set[str]] = defaultdict(set)
    imported = set[str]()
    for place, tree in trees().items():
        for node in tree.body:
            if isinstance(node, ast.Assign | ast.AnnAssign):
                for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
                    for name in ast.walk(target):
                        if isinstance(name, ast.Name):
                            homes[name.id].add(place)
        for part in ast.walk(tree):
            if isinstance(part, ast.ImportFrom) and str(part.module).startswith("buildup"):
                imported |= {alias.name for alias in part.names}
    assert {name: found for name, found in homes.items() if name in imported - {"log"} and len(found) > 1} == {}
    assert "logger" not in homes  # each module that logs calls it `log`


def test_no_function_is_longer_than_a_screen() -> None:
    lengths = {
        f"{place}:{node.lineno} {node.name}": (node.end_lineno or 0) - node.lineno + 1
        for place, tree in trees().items()
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }
    assert {name: length for name, length in lengths.items() if length > 60} == {}


def test_a_command_is_a_thin_file() -> None:
    lengths = {path.name: path.read_text(encoding="utf-8").count("\n") for path in (PACKAGE / "cli").glob("*.py")}
    assert {name for name, length in lengths.items() if length > 80} == {"main.py", "output.py"}


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").split()) <= 900
