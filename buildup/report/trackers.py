"""Experiment trackers that follow a search: TensorBoard, MLflow, Weights & Biases and trackio.

A tracker is told of trainings, of their epochs and of verdicts. It only watches: one that fails is left out from then
on, with a warning, and the search goes on. A package adds a tracker by an entry point in the group `buildup.trackers`.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

from buildup.errors import RequestError
from buildup.registry import Registry
from buildup.trials.decision import Decision
from buildup.trials.event import Event, Started
from buildup.trials.outcome import Epoch, Score
from buildup.trials.training import Training

log = logging.getLogger("buildup")

VERDICTS = "verdicts"
"""What a tracker is told to log verdicts as; their numbers are the steps of the search."""
PROJECT = "buildup"


class Tracker(Protocol):
    """One run in a tracker."""

    def begin(self, name: str, values: Mapping[str, Any]) -> None:
        """A training begins, or goes on: its name, and what is known of it."""
        ...

    def log(self, name: str, metrics: Mapping[str, float], step: int) -> None:
        """Numbers of a training after an epoch, or of a verdict."""
        ...

    def close(self) -> None:
        """The search has ended or stopped."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class TrackerKind:
    """A tracker as users name it."""

    name: str
    package: str
    """What has to be installed."""
    open: Callable[[Path, Mapping[str, Any]], Tracker]
    """Begins a run, given the folder of the search and its settings."""


class TensorBoard:
    """Event files in the folder `tensorboard` of the run: one curve a training."""

    def __init__(self, folder: Path, settings: Mapping[str, Any]) -> None:
        self._folder = folder / "tensorboard"
        self._writers: dict[str, Any] = {}

    def begin(self, name: str, values: Mapping[str, Any]) -> None:
        """Note what is trained."""
        self._writer(name).add_text("training", "\n\n".join(f"{key}: {value}" for key, value in values.items()))

    def log(self, name: str, metrics: Mapping[str, float], step: int) -> None:
        """Add a point to each curve."""
        for key, value in metrics.items():
            self._writer(name).add_scalar(key, value, step)
        self._writer(name).flush()

    def close(self) -> None:
        """Close all files."""
        for writer in self._writers.values():
            writer.close()

    def _writer(self, name: str) -> Any:
        if name not in self._writers:
            self._writers[name] = import_module("tensorboardX").SummaryWriter(str(self._folder / name))
        return self._writers[name]


class MLflow:
    """A run of MLflow for the search, and one below it for each training. MLFLOW_TRACKING_URI says where."""

    def __init__(self, folder: Path, settings: Mapping[str, Any]) -> None:
        self._client = import_module("mlflow").MlflowClient()
        found = self._client.get_experiment_by_name(PROJECT)
        self._experiment = found.experiment_id if found else self._client.create_experiment(PROJECT)
        self._runs: dict[str, str] = {}
        self.begin(VERDICTS, settings)
        self._client.set_tag(self._runs[VERDICTS], "mlflow.runName", folder.name)

    def begin(self, name: str, values: Mapping[str, Any]) -> None:
        """Begin a run of its own."""
        if name not in self._runs:
            tags = {"mlflow.runName": name}
            tags |= {"mlflow.parentRunId": self._runs[VERDICTS]} if self._runs else {}
            self._runs[name] = self._client.create_run(self._experiment, tags=tags).info.run_id
            for key, value in values.items():
                self._client.log_param(self._runs[name], key, str(value)[:500])

    def log(self, name: str, metrics: Mapping[str, float], step: int) -> None:
        """Add a point to each metric."""
        for key, value in metrics.items():
            self._client.log_metric(self._runs[name], key, value, step=step)

    def close(self) -> None:
        """Mark the runs as finished."""
        for run in self._runs.values():
            self._client.set_terminated(run)


class OneRun:
    """A run of Weights & Biases, or of trackio, which has the same functions. Trainings are groups of its metrics."""

    def __init__(self, library: str, folder: Path, settings: Mapping[str, Any]) -> None:
        self._library = import_module(library)
        self._library.init(project=PROJECT, name=folder.name, config=dict(settings))

    def begin(self, name: str, values: Mapping[str, Any]) -> None:
        """Let the curves of a training begin at its own first epoch, where the library can."""
        if define := getattr(self._library, "define_metric", None):
            define(f"{name}/*", step_metric=f"{name}/step")

    def log(self, name: str, metrics: Mapping[str, float], step: int) -> None:
        """Log the metrics under the name of the training."""
        self._library.log({f"{name}/{key}": value for key, value in {**metrics, "step": step}.items()})

    def close(self) -> None:
        """End the run."""
        self._library.finish()


TRACKERS = Registry[TrackerKind]("tracker", group="buildup.trackers")
TRACKERS.register(TrackerKind(name="tensorboard", package="tensorboardX", open=TensorBoard))
TRACKERS.register(TrackerKind(name="mlflow", package="mlflow", open=MLflow))
TRACKERS.register(TrackerKind(name="wandb", package="wandb", open=lambda *run: OneRun("wandb", *run)))
TRACKERS.register(TrackerKind(name="trackio", package="trackio", open=lambda *run: OneRun("trackio", *run)))


def check_trackers(names: Sequence[str]) -> None:
    """Raise if a tracker is unknown or not installed."""
    for name in names:
        if "," in name:
            raise RequestError(f"--track {name}: give the flag once for each tracker.")
        package = TRACKERS[name].package
        if find_spec(package) is None:
            raise RequestError(f"--track {name}: {package} is not installed. Install it with `pip install {package}`.")


@dataclass(slots=True, kw_only=True)
class Tracking:
    """Tells trackers of events and decisions. It is called like a callback."""

    trackers: dict[str, Tracker] = field(default_factory=dict)

    @classmethod
    def begin(cls, names: Sequence[str], folder: Path, settings: Mapping[str, Any]) -> "Tracking":
        """Begin a run in each of the named trackers."""
        tracking = cls()
        for name in names:
            tracking._try(name, partial(tracking._open, name, folder, settings))
        return tracking

    def __call__(self, event: Event | Decision) -> None:
        """Tell all trackers of an event or a decision."""
        if isinstance(event, Decision):
            low, high = event.ci
            verdict = {"gain": event.gain, "low": low, "high": high, "kept": float(event.kept)}
            self._all(lambda tracker: tracker.log(VERDICTS, verdict, event.step))
            return
        name, update = name_of(event.training), event.update
        if isinstance(update, Started):
            candidate = event.training.candidate
            known = {"layout": candidate.layout, "edit": candidate.edit, "seed": event.training.seed}
            self._all(lambda tracker: tracker.begin(name, {**known, "worker": update.worker}))
        elif isinstance(update, Epoch):
            self._all(lambda tracker: tracker.log(name, update.metrics, update.number))
        elif isinstance(update.outcome, Score):
            score = {"score": update.outcome.accuracy}
            self._all(lambda tracker: tracker.log(name, score, len(update.curve)))

    def close(self) -> None:
        """End the run in all trackers."""
        self._all(lambda tracker: tracker.close())

    def _all(self, tell: Callable[[Tracker], object]) -> None:
        for name, tracker in list(self.trackers.items()):
            self._try(name, partial(tell, tracker))

    def _open(self, name: str, folder: Path, settings: Mapping[str, Any]) -> None:
        self.trackers[name] = TRACKERS[name].open(folder, settings)

    def _try(self, name: str, tell: Callable[[], object]) -> None:
        try:
            tell()
        except Exception as error:  # noqa: BLE001 - it runs the code of another package, which must not end a search
            self.trackers.pop(name, None)
            log.warning("warning: --track %s: left out from here on: %s: %s", name, type(error).__name__, error)


def name_of(training: Training) -> str:
    """The name of a training in a tracker: its layout, and what makes it unique."""
    return f"{training.candidate.layout.replace('|', '-')}-{training.id}"
