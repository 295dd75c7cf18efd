"""Imports point down the stack, heavy libraries have one door each, and the thinking half knows no torch."""

import ast
import subprocess
import sys
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import buildup

PACKAGE = Path(buildup.__file__).parent

STACK = (
    {"cli", "__main__"},
    {"engine"},
    {"execution", "store", "report"},
    {"strategies", "statistics", "models", "training", "diagnostics"},
    {"trials"},
    {"space"},
    {"graph"},
    {"registry"},
    {"settings", "errors", "files"},
)
NEIGHBOURS = {
    ("execution", "store"),
    ("training", "models"),
    ("diagnostics", "models"),
    ("diagnostics", "training"),
}
"""The only imports between parts that stand on one line of the stack."""

DOORS = {
    "pyarrow": {"execution/handshake.py", "store/remote_folder.py"},
    "matplotlib": {"diagnostics/figures.py"},
    "ray": {
        "execution/counters.py",
        "execution/ray_cluster.py",
        "execution/ray_nodes.py",
        "execution/ray_tune.py",
    },
    "scipy": {"statistics/distributions.py", "diagnostics/hessian.py"},
    "sklearn": set(),
    "optuna": {
        "engine/dashboard.py",
        "strategies/samplers.py",
        "store/study_writer.py",
        "store/notes.py",
        "store/review.py",
        "store/review_trials.py",
        "store/storage.py",
        "store/study_reader.py",
    },
    "optuna_dashboard": {"store/notes.py", "store/review.py", "engine/dashboard.py"},
}


LATE = {"engine/graph_cache.py", "engine/hardware.py", "engine/request.py"}
"""The modules beside those of the command line that import a part of buildup inside a function, and say why."""


def sources() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


@cache
def imported(path: Path) -> list[tuple[str, bool]]:
    """Every module that a file imports, and whether the import stands inside a function."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    late = {
        node
        for function in ast.walk(tree)
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef)
        for node in ast.walk(function)
    }
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [(name.name, node in late) for name in node.names]
        elif isinstance(node, ast.ImportFrom):
            found.append((node.module or "", node in late))
    return found


def part_of(path: Path) -> str:
    place = path.relative_to(PACKAGE)
    return place.parts[0] if len(place.parts) > 1 else place.stem


def line_of(part: str) -> int:
    return next(number for number, parts in enumerate(STACK) if part in parts)


def test_imports_point_down_the_stack() -> None:
    wrong = []
    for path in sources():
        own = part_of(path)
        for module, _ in imported(path) if own != "__init__" else ():
            parts = module.split(".")
            if parts[0] == "buildup" and len(parts) > 1 and parts[1] != own:
                below = line_of(parts[1]) > line_of(own)
                if not (below or (own, parts[1]) in NEIGHBOURS or own == "__main__"):
                    wrong.append(f"{path} imports {module}")
    assert wrong == []


def test_heavy_libraries_are_imported_at_their_door_only() -> None:
    imports = [(str(path.relative_to(PACKAGE)), module) for path in sources() for module, _ in imported(path)]
    wrong = [pair for pair in imports if pair[0] not in DOORS.get(pair[1].split(".")[0], {pair[0]})]
    assert wrong == []


def test_only_the_command_line_imports_late() -> None:
    places = {str(path.relative_to(PACKAGE)): path for path in sources() if part_of(path) != "cli"}
    late = [
        (place, module)
        for place in places.keys() - LATE
        for module, is_late in imported(places[place])
        if is_late and module.startswith("buildup")
    ]
    assert late == []


def brought(modules: Sequence[str], heavy: Sequence[str]) -> list[str]:
    """Which of some modules, imported one after the other into one process, brings a library with it."""
    code = (
        "import importlib, sys\n"
        f"for name in {list(modules)}:\n"
        "    importlib.import_module(name)\n"
        f"    for heavy in {list(heavy)}:\n"
        "        if heavy in sys.modules: print(name, 'loads', heavy)"
    )
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.splitlines()


def test_the_thinking_half_loads_without_torch() -> None:
    modules = (
        "buildup.settings",
        "buildup.space.load",
        "buildup.graph.serialize",
        "buildup.trials.history",
        "buildup.strategies.alternet",
        "buildup.report.page",
        "buildup.engine.loop",
        "buildup.cli.main",
    )
    assert brought(modules, ("torch", "timm", "ray", "optuna")) == []


def test_training_models_and_diagnostics_load_without_ray_and_optuna() -> None:
    modules = ("buildup.models", "buildup.training.fit", "buildup.diagnostics.figures")
    # That they load timm shows that a library which is loaded is seen.
    assert brought(modules, ("ray", "optuna", "timm")) == [f"{module} loads timm" for module in modules]


def test_the_test_set_is_opened_by_final_alone() -> None:
    texts = {str(path.relative_to(PACKAGE)): path.read_text(encoding="utf-8") for path in sources()}
    names = {name for name, text in texts.items() if "open_test" in text}
    assert names == {"training/data.py", "engine/final.py"}
