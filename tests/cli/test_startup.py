"""Commands that need no torch load none, answer soon and stay small. The others say first what they do."""

import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import pytest

from buildup.engine import graph_cache
from buildup.files import remember

ARCHIVE = Path(__file__).parents[1] / "fixtures" / "run_0_1_0.tar.xz"

HEAVY = ("torch", "torchvision", "timm", "ray", "sklearn", "scipy", "pandas", "networkx", "matplotlib", "plotly")
WITHOUT_A_STUDY = (*HEAVY, "optuna", "sqlalchemy", "numpy")
LIGHT = {
    "spaces": WITHOUT_A_STUDY,
    "models": WITHOUT_A_STUDY,
    "models resnet1*": WITHOUT_A_STUDY,
    "search --help": WITHOUT_A_STUDY,
    "ls": (*HEAVY, "optuna_dashboard"),
    "status old": (*HEAVY, "optuna_dashboard"),
    "report old": (*HEAVY, "optuna_dashboard"),
    "report old --format md": (*HEAVY, "optuna_dashboard"),
    "report old again/old": (*HEAVY, "optuna_dashboard"),
}
"""Commands, and the libraries that they must not load."""
SECONDS = 2.5
"""CPU seconds of a light command: 0.3 to 1.4 were measured on busy cores, where loading torch alone takes 2."""
ATTEMPTS = 3
"""The quickest of so many counts: other processes on the same cores slow one down."""
MEMORY = 300
"""MiB of the process of the dashboard."""

MEASURE = """
import json, os, sys
from pathlib import Path
ended = {end}
used = os.times()
loaded = [name for name in sys.argv[1].split(",") if name in sys.modules]
status = Path("/proc/self/status")
peak = int(status.read_text().partition("VmHWM:")[2].split()[0]) / 1024 if status.exists() else None
print(json.dumps(dict(ended=ended, seconds=used.user + used.system, loaded=loaded, peak=peak)), file=sys.stderr)
"""
COMMAND = "(__import__('buildup.cli.main', fromlist=['main']).main(sys.argv[2:]))"
DASHBOARD = "bool(__import__('buildup.engine.dashboard'))"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two runs, and with a user's cache in which a model is known."""
    place = tmp_path_factory.mktemp("start")
    for folder in ("runs", "again"):
        with tarfile.open(ARCHIVE) as archive:
            archive.extractall(place / folder, filter="data")
    row = {"name": "resnet18", "family": "resnet", "supported": True, "reason": None, "stages": 4, "positions": 4}
    known = {"families": {"resnet18": "resnet"}, "rows": {"resnet18": row | {"convolutional": True}}, "complete": True}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(place / "cache"))
        remember(graph_cache._place("models"), known)
    return place


def measured(end: str, libraries: tuple[str, ...], place: Path, *arguments: str) -> dict[str, Any]:
    """What is loaded and used in a fresh process after an expression."""
    done = subprocess.run(
        [sys.executable, "-c", MEASURE.format(end=end), ",".join(libraries), *arguments],
        capture_output=True,
        text=True,
        check=True,
        cwd=place,
        env={**os.environ, "XDG_CACHE_HOME": str(place / "cache")},
    )
    return dict(json.loads(done.stderr.splitlines()[-1]))


@pytest.mark.parametrize("command", LIGHT)
def test_a_light_command_loads_no_heavy_library_and_answers_soon(command: str, place: Path) -> None:
    seconds: list[float] = []
    while len(seconds) < ATTEMPTS and min(seconds, default=SECONDS) >= SECONDS:
        found = measured(COMMAND, LIGHT[command], place, *command.split())
        assert found["ended"] == 0
        assert found["loaded"] == []
        seconds.append(found["seconds"])
    assert min(seconds) < SECONDS


def test_what_is_not_to_be_loaded_would_be_seen(place: Path) -> None:
    found = measured("bool(__import__('buildup.models.build'))", HEAVY, place)
    assert {"torch", "timm"} <= set(found["loaded"])
    assert found["peak"] is None or found["peak"] > MEMORY


def test_the_dashboard_is_small(place: Path) -> None:
    found = measured(DASHBOARD, ("torch", "timm", "ray", "matplotlib"), place)
    assert found["loaded"] == []
    assert found["peak"] is None or found["peak"] < MEMORY


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("search --base resnet18 --dataset digits --json", "Reading resnet18 ..."),
        ("plan --base resnet18 --dataset digits", "Reading resnet18 ..."),
        ("resume old", "Reading runs/old ..."),
    ],
)
def test_a_heavy_command_first_says_what_it_does(command: str, said: str, place: Path) -> None:
    code = "import sys; sys.modules['torch'] = None; from buildup.cli.main import main; main(sys.argv[1:])"
    done = subprocess.run(
        [sys.executable, "-c", code, *command.split()], capture_output=True, text=True, check=False, cwd=place
    )
    assert done.stderr.splitlines()[0] == said
    assert "import of torch halted" in done.stderr
    assert done.stdout == ""
