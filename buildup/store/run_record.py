"""`run.yaml`: the settings, data, environment and status of a run. The file is replaced as a whole."""

import json
import platform
from collections.abc import Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

import yaml

from buildup.errors import RequestError, RunError
from buildup.files import cores, write_atomic
from buildup.graph.network import Network
from buildup.graph.serialize import network_from_values, network_to_values
from buildup.settings import RunSettings, problems_of
from buildup.space.load import space_from_values
from buildup.space.schema import SearchSpace
from buildup.store.remote_folder import RemoteFolder
from buildup.store.run_dir import acquire_run_lock, check_free, folder_of, trainings_in
from buildup.training.execution_words import Execution, execution_from_words, processor_name
from buildup.training.recipe import Recipe, recipe_from_values, recipe_to_values
from buildup.trials.training import Pretrained

REMOVED: dict[str, object] = {"early_drop": None, "inherit": None}
"""Settings of version 0.1.0 that changed verdicts, with their values in runs that did not use them."""
IGNORED = frozenset({"prior"})
"""Settings of version 0.1.0 that changed no verdict."""

VERSIONED = ("buildup", "torch", "timm", "ray", "optuna", "networkx", "numpy")

SAFE_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""libyaml's where PyYAML was built with it: seven times as fast."""

Status = Literal["running", "finished", "stopped", "failed"]


@dataclass(frozen=True, slots=True, kw_only=True)
class DataRecord:
    """The dataset when the run began."""

    name: str
    hash: str
    train_images: int
    val_images: int
    num_classes: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    image_size: int
    channels: int
    class_names: tuple[str, ...] = ()
    """Empty for an early run, which does not know them."""
    streamed: bool | None = None
    """Whether they are read anew in each epoch; None for an early run, in which each machine decides."""
    notes: tuple[str, ...] = ()
    """What users should know of the images, as sentences."""
    split_seed: int | None = None
    """The seed of the one split of a run before version 0.3.0. Since then, each seed has a validation fold of its own.
    """
    test_set: str = "not opened"


@dataclass(frozen=True, slots=True, kw_only=True)
class Environment:
    """The machine and the versions that a run was started with."""

    created: str
    python: str
    system: str
    processor: str
    cores: int
    device: str
    versions: Mapping[str, str | None] = field(default_factory=dict)
    measured: Mapping[str, str] = field(default_factory=dict)
    """Images per second of each execution that was tried."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRecord:
    """One search on disk: what `run.yaml` holds."""

    folder: Path
    settings: RunSettings
    space: SearchSpace
    recipe: Recipe
    data: DataRecord
    network: Network
    """The base network."""
    environment: Environment
    status: Status = "running"
    reason: str = ""
    """The reason for the status, as a sentence."""
    warnings: tuple[str, ...] = ()
    earlier: tuple[dict[str, Any], ...] = ()
    """The settings of its earlier decisions, one entry for each time that it was extended."""
    owner: str = ""
    """The study name of the run that this one is a part of; empty for a search."""

    @property
    def title(self) -> str:
        return f"{self.settings.base} on {self.settings.dataset}"

    @property
    def execution(self) -> Execution:
        return execution_from_words(self.settings.execution)

    @property
    def start(self) -> Pretrained | None:
        """The trained weights that the blocks of the base start from; None for fresh ones."""
        return start_of(self.settings)

    @property
    def other_epochs(self) -> int | None:
        """Epochs of its trainings, if the run began with another number; None otherwise."""
        first = self.earlier[0].get("epochs", self.settings.epochs) if self.earlier else self.settings.epochs
        return None if self.settings.epochs == first else self.settings.epochs

    @property
    def trainings(self) -> Path:
        return trainings_in(self.folder, self.other_epochs)

    @property
    def remote_trainings(self) -> RemoteFolder | None:
        """The folder in a storage that its trainings write into; None if that is the run's own."""
        path = self.settings.storage_path
        return RemoteFolder(path) / self.study_name / self.trainings.name if path else None

    @property
    def study_name(self) -> str:
        """The name of its Optuna study.

        The name that the run was given: in a file of its own, the study of a renamed folder keeps its name. In a
        shared storage, a copied folder must not write into the study of its original.
        """
        if self.owner:
            return f"{self.owner}-{self.folder.name}"
        given = Path(self.settings.run or "").name
        return self.folder.name if self.settings.storage or given in {"", ".."} else given


def start_of(settings: RunSettings) -> Pretrained | None:
    source, digest = settings.pretrained, settings.pretrained_hash
    return Pretrained(source=source, hash=digest) if source and digest else None


def create_run_dir(run: RunRecord) -> None:
    try:
        run.trainings.mkdir(parents=True, exist_ok=True)
    except OSError as problem:
        raise RunError(f"{run.folder}: this folder can't be made: {problem.strerror}. Give another --run.") from None
    with closing(acquire_run_lock(run.folder)):
        check_free(run.folder)  # another search may have begun it meanwhile
        save_record(run)


def save_record(run: RunRecord) -> None:
    values: dict[str, Any] = {
        "settings": asdict(run.settings),
        "status": run.status,
        "reason": run.reason,
        "warnings": list(run.warnings),
        "earlier": list(run.earlier),
        "space": asdict(run.space),
        "recipe": recipe_to_values(run.recipe),
        "data": asdict(run.data),
        "environment": asdict(run.environment),
    }
    text = ""
    # One line for each setting, and one for each block of the network.
    for part, flow in ((values, False), ({"network": network_to_values(run.network)}, None)):
        # JSON turns tuples and mappings of any kind into types that the safe loader reads back.
        plain = json.loads(json.dumps(part))
        text += yaml.safe_dump(plain, sort_keys=False, default_flow_style=flow, width=1000, allow_unicode=True)
    # The URL of a storage may hold a password, which `resume` needs.
    secret = run.settings.storage or run.settings.storage_path
    write_atomic(run.folder / "run.yaml", text.encode(), mode=0o600 if secret else 0o644)


def with_status(run: RunRecord, status: Status, reason: str, warnings: Sequence[str] = ()) -> RunRecord:
    fresh = tuple(warning for warning in warnings if warning not in run.warnings)
    return replace(run, status=status, reason=reason, warnings=(*run.warnings, *fresh))


def save_status(run: RunRecord, status: Status, reason: str, warnings: Sequence[str] = ()) -> RunRecord:
    run = with_status(run, status, reason, warnings)
    save_record(run)
    return run


def check_extensions(folder: Path, known: int) -> None:
    """Raise if another process has extended a run since its record was read. The caller holds the run's lock."""
    if len(read_record(folder).earlier) != known:
        raise RunError(f"{folder}: another process extended this run a moment ago. Give the command again.")


def open_record(name: str) -> RunRecord:
    """Read `run.yaml` of a run, given its name or its folder."""
    return read_record(folder_of(name))


def read_record(folder: Path) -> RunRecord:
    path = folder / "run.yaml"
    if not path.is_file():
        there = sorted(found.parent.name for found in Path("runs").glob("*/run.yaml"))
        known = f" Runs here: {', '.join(there[:12])}." if there else " There are no runs in ./runs."
        found = "it has no run.yaml" if folder.exists() else "no such folder"
        raise RunError(f"{folder}: this is not a run folder ({found}).{known}")
    try:
        values = yaml.load(path.read_text(encoding="utf-8"), Loader=SAFE_LOADER)
        data: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value for name, value in values["data"].items()
        }
        return RunRecord(
            folder=folder,
            settings=settings_from_values(values["settings"]),
            space=space_from_values(values["space"]),
            recipe=recipe_from_values(values["recipe"]),
            data=DataRecord(**data),
            network=network_from_values(values["network"]),
            environment=Environment(**values["environment"]),
            status=values["status"],
            reason=values["reason"],
            warnings=tuple(values["warnings"]),
            earlier=tuple(values.get("earlier", ())),
        )
    except OSError as problem:
        raise RunError(f"{path}: can't be read: {problem.strerror}.") from None
    except RequestError as error:
        raise RunError(*(f"{path}: {problem}" for problem in error.problems)) from None
    except (yaml.YAMLError, KeyError, TypeError, ValueError, AttributeError, RecursionError) as problem:
        what = " ".join(f"{type(problem).__name__}: {problem}".split())
        raise RunError(f"{path}: damaged, or not written by this version of buildup ({what}).") from None


def environment(device: str, measured: Mapping[str, str] | None = None) -> Environment:
    versions: dict[str, str | None] = dict.fromkeys(VERSIONED)
    for name in VERSIONED:
        with suppress(PackageNotFoundError):
            versions[name] = version(name)
    return Environment(
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        python=platform.python_version(),
        system=platform.platform(),
        processor=processor_name(),
        cores=cores(),
        device=device,
        versions=versions,
        measured=measured or {},
    )


def settings_from_values(values: Mapping[str, Any]) -> RunSettings:
    """The settings in `run.yaml`, also of version 0.1.0; raises if the run used a setting that was removed."""
    if used := [name for name, unused in REMOVED.items() if values.get(name, unused) != unused]:
        raise RunError(f"this run used {' and '.join(used)}, which was removed; buildup 0.1.0 can read it.")
    kept = {name: value for name, value in values.items() if name not in REMOVED.keys() | IGNORED}
    if isinstance(kept["execution"], Mapping):
        kept["execution"] = Execution(**kept["execution"]).words
    if isinstance(start := kept.get("pretrained"), Mapping):
        kept |= {"pretrained": start["source"], "pretrained_hash": start["hash"]}
    if problems := list(problems_of(kept)):
        raise RunError(*(f"settings: {problem}" for problem in problems))
    kept |= {name: tuple(kept.get(name, ())) for name in ("set", "track")}
    return RunSettings(**kept)
