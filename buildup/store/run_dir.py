"""A run's folder: `run.yaml` and the places of everything else. Files are replaced whole, never half-written."""

import json
import os
import platform
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

import yaml

from buildup.errors import RunError
from buildup.execution.evaluator import trainings_in
from buildup.graph.network import Network
from buildup.graph.serialize import network_from_values, network_to_values
from buildup.space.load import space_from_values
from buildup.space.schema import SearchSpace
from buildup.store.atomic_write import write_atomic
from buildup.store.settings import Settings, settings_from_values, settings_to_values

VERSIONED = ("buildup", "torch", "timm", "ray", "optuna", "networkx", "numpy")

Status = Literal["running", "finished", "stopped", "failed"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One search on disk."""

    folder: Path
    settings: Settings
    space: SearchSpace
    recipe: dict[str, Any]
    data: dict[str, Any]
    """What the dataset was when the run began: its hash, its sizes, its classes."""
    network: Network
    """Where the search starts."""
    environment: dict[str, Any]
    status: Status = "running"
    reason: str = ""
    """Why it stands where it does, for people."""
    warnings: tuple[str, ...] = ()
    earlier: tuple[dict[str, Any], ...] = ()
    """Under which settings its earlier decisions were made, one entry for each time that it was extended."""
    owner: str = ""
    """The study of the run that this one is a part of; empty for a search."""

    @property
    def name(self) -> str:
        """How people call it."""
        return self.folder.name

    @property
    def apart(self) -> int | None:
        """The epochs by which its trainings are told from those that it began with; None while these are the same."""
        first = self.earlier[0].get("epochs", self.settings.epochs) if self.earlier else self.settings.epochs
        return None if self.settings.epochs == first else self.settings.epochs

    @property
    def trainings(self) -> Path:
        """One folder a training."""
        return trainings_in(self.folder, self.apart)

    @property
    def study(self) -> str:
        """The name of its Optuna study."""
        return f"{self.owner}-{self.folder.name}" if self.owner else self.folder.name


def folder_of(name: str) -> Path:
    """The folder of a run: `runs/NAME` for a plain name, the folder itself for a path."""
    return Path("runs") / name if Path(name).name == name and name not in {".", ".."} else Path(name)


def check_free(folder: Path) -> None:
    """Raise when a new run can't be made here."""
    if (folder / "run.yaml").exists():
        raise RunError(
            f"{folder}: this run exists already. Go on with it by `buildup resume {folder}`, or give another --run."
        )
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise RunError(f"{folder}: this is there already and is no run. Give another --run.")
    parent = next(parent for parent in (folder, *folder.absolute().parents) if parent.exists())
    if not parent.is_dir() or not os.access(parent, os.W_OK | os.X_OK):
        raise RunError(f"{folder}: no permission to write into {parent}. Give another --run.")


def create(run: Run) -> None:
    """Make the folder of a new run."""
    try:
        run.trainings.mkdir(parents=True)
    except OSError as problem:
        raise RunError(f"{run.folder}: this folder can't be made: {problem.strerror}. Give another --run.") from None
    save(run)


def save(run: Run) -> None:
    """Write `run.yaml`."""
    values = {
        "settings": settings_to_values(run.settings),
        "status": run.status,
        "reason": run.reason,
        "warnings": list(run.warnings),
        "earlier": list(run.earlier),
        "space": asdict(run.space),
        "recipe": run.recipe,
        "data": run.data,
        "environment": run.environment,
    }
    # One setting a line, but one block of the network a line.
    text = _yaml(values, flow=False) + _yaml({"network": network_to_values(run.network)}, flow=None)
    # The URL of a storage may hold a password, which `resume` needs.
    write_atomic(run.folder / "run.yaml", text.encode(), mode=0o600 if run.settings.storage else 0o644)


def marked(run: Run, status: Status, reason: str, warnings: Sequence[str] = ()) -> Run:
    """The run with a new status."""
    fresh = tuple(warning for warning in warnings if warning not in run.warnings)
    return replace(run, status=status, reason=reason, warnings=(*run.warnings, *fresh))


def mark(run: Run, status: Status, reason: str, warnings: Sequence[str] = ()) -> Run:
    """The run with a new status, written down."""
    run = marked(run, status, reason, warnings)
    save(run)
    return run


def open_run(name: str) -> Run:
    """The run of a name or a folder."""
    folder = folder_of(name)
    path = folder / "run.yaml"
    if not path.is_file():
        there = sorted(found.parent.name for found in Path("runs").glob("*/run.yaml"))
        known = f" Runs here: {', '.join(there[:12])}." if there else " There are no runs in ./runs."
        found = "it has no run.yaml" if folder.exists() else "no such folder"
        raise RunError(f"{folder}: this is not a run folder ({found}).{known}")
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
        return Run(
            folder=folder,
            settings=settings_from_values(values["settings"]),
            space=space_from_values(values["space"]),
            recipe=dict(values["recipe"]),
            data=dict(values["data"]),
            network=network_from_values(values["network"]),
            environment=dict(values["environment"]),
            status=values["status"],
            reason=values["reason"],
            warnings=tuple(values["warnings"]),
            earlier=tuple(values.get("earlier", ())),
        )
    except OSError as problem:
        raise RunError(f"{path}: can't be read: {problem.strerror}.") from None
    except RunError as problem:
        raise RunError(f"{path}: {problem}") from None
    except (yaml.YAMLError, UnicodeDecodeError, KeyError, TypeError, ValueError, AttributeError) as problem:
        what = " ".join(f"{type(problem).__name__}: {problem}".split())
        raise RunError(f"{path}: damaged, or not written by this version of buildup ({what}).") from None


def environment(device: str) -> dict[str, Any]:
    """Where and with what a run was started."""
    return {
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "system": platform.platform(),
        "processor": _processor(),
        "cores": cores(),
        "device": device,
        "versions": {name: _version(name) for name in VERSIONED},
    }


def cores() -> int:
    """How many CPU cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def free_gib(folder: Path) -> float:
    """Free disk space where a folder is or would be, in GiB."""
    parent = next(parent for parent in (folder, *folder.absolute().parents) if parent.exists())
    return shutil.disk_usage(parent).free / 2**30


def _yaml(values: dict[str, Any], *, flow: bool | None) -> str:
    # Through JSON, so that tuples and mappings of any kind become what the safe loader reads back.
    plain = json.loads(json.dumps(values))
    return str(yaml.safe_dump(plain, sort_keys=False, default_flow_style=flow, width=1000, allow_unicode=True))


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next(
        (line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.processor()
    )
