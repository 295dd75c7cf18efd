"""Experiment trackers that follow a search: TensorBoard, MLflow, Weights & Biases and trackio.

A tracker is told of trainings, of their epochs and of verdicts. It only watches: one that fails or hangs is left out
from then on, with a warning, and the search goes on. A package adds a tracker by an entry point in the group
`buildup.trackers`.
"""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from queue import Full, Queue
from threading import Thread
from typing import Any, Protocol, runtime_checkable

from buildup.errors import RequestError
from buildup.registry import Registry
from buildup.trials.decision import Decision
from buildup.trials.event import Event, Started
from buildup.trials.outcome import Epoch, Record, Score
from buildup.trials.training import Training

log = logging.getLogger("buildup")

VERDICTS = "verdicts"
"""The name under which verdicts are logged; their steps are those of the search."""
PROJECT = "buildup"
WAITING = 1000
"""How many events may wait for a tracker before it is left out as too slow."""
CLOSING = 10.0
"""Seconds that the end of a search waits for its trackers."""


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


@runtime_checkable
class EndsTrainings(Protocol):
    """A tracker that also wants to know when a training has ended, scored or failed."""

    def end(self, name: str) -> None:
        """Nothing more comes of this training, unless it begins again."""
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
        self._writer(name).add_text("training", "\n\n".join(f"{key}: {value}" for key, value in values.items()))

    def log(self, name: str, metrics: Mapping[str, float], step: int) -> None:
        for key, value in metrics.items():
            self._writer(name).add_scalar(key, value, step)
        self._writer(name).flush()

    def end(self, name: str) -> None:
        """Close the file of a training: a search has more of them than a process may hold open files."""
        if writer := self._writers.pop(name, None):
            writer.close()

    def close(self) -> None:
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
        if name not in self._runs:
            tags = {"mlflow.runName": name}
            tags |= {"mlflow.parentRunId": self._runs[VERDICTS]} if self._runs else {}
            self._runs[name] = self._client.create_run(self._experiment, tags=tags).info.run_id
            param = import_module("mlflow.entities").Param
            self._client.log_batch(self._runs[name], params=[param(key, str(values[key])[:500]) for key in values])

    def log(self, name: str, metrics: Mapping[str, float], step: int) -> None:
        metric, now = import_module("mlflow.entities").Metric, int(1000 * time.time())
        self._client.log_batch(self._runs[name], metrics=[metric(key, metrics[key], now, step) for key in metrics])

    def end(self, name: str) -> None:
        self._client.set_terminated(self._runs.pop(name))

    def close(self) -> None:
        for run in self._runs.values():
            self._client.set_terminated(run)


class OneRun:
    """A run of Weights & Biases, or of trackio, which has the same functions. Trainings are groups of its metrics."""

    def __init__(self, library: str, folder: Path, settings: Mapping[str, Any]) -> None:
        self._library = import_module(library)
        own = {"settings": _private(self._library)} if library == "wandb" else {}
        self._library.init(project=PROJECT, name=folder.name, config=dict(settings), **own)

    def begin(self, name: str, values: Mapping[str, Any]) -> None:
        """Let the curves of a training begin at its own first epoch, where the library can."""
        if define := getattr(self._library, "define_metric", None):
            define(f"{name}/*", step_metric=f"{name}/step")

    def log(self, name: str, metrics: Mapping[str, float], step: int) -> None:
        self._library.log({f"{name}/{key}": value for key, value in {**metrics, "step": step}.items()})

    def close(self) -> None:
        self._library.finish()


def _private(wandb: Any) -> Any:
    """Settings that keep the command line and the output, which may hold a password of --storage, on this machine."""
    try:
        return wandb.Settings(x_disable_meta=True, console="off")
    except Exception:  # noqa: BLE001 - how it refuses an unknown field depends on its version
        return wandb.Settings(_disable_meta=True, console="off")  # its name in older versions


TRACKERS = Registry[TrackerKind]("tracker", group="buildup.trackers")
TRACKERS.register(TrackerKind(name="tensorboard", package="tensorboardX", open=TensorBoard))
TRACKERS.register(TrackerKind(name="mlflow", package="mlflow", open=MLflow))
TRACKERS.register(TrackerKind(name="wandb", package="wandb", open=lambda *run: OneRun("wandb", *run)))
TRACKERS.register(TrackerKind(name="trackio", package="trackio", open=lambda *run: OneRun("trackio", *run)))


def check_trackers(names: Sequence[str]) -> None:
    """Raises `RequestError` if a tracker is unknown or not installed."""
    for name in names:
        if "," in name:
            raise RequestError(f"--track {name}: give the flag once for each tracker.")
        package = TRACKERS[name].package
        if find_spec(package) is None:
            raise RequestError(f"--track {name}: {package} is not installed. Install it with `pip install {package}`.")


class Tracking:
    """Tells trackers of events and decisions. It is called like a callback, and never waits for a tracker."""

    def __init__(self, names: Sequence[str], folder: Path, settings: Mapping[str, Any]) -> None:
        self.followers = [_Follower(name, folder, settings) for name in dict.fromkeys(names)]
        for follower in self.followers:
            follower.start()

    def __call__(self, event: Event | Decision) -> None:
        for follower in self.followers:
            follower.put(event)

    def close(self) -> None:
        """End the run in all trackers, and wait a little until they have taken in what they were told."""
        for follower in self.followers:
            follower.put(None)
        until = time.monotonic() + CLOSING
        for follower in self.followers:
            follower.join(0.0 if follower.is_out else max(0.0, until - time.monotonic()))
            if follower.is_alive():
                follower.leave_out(f"it did not end within {CLOSING:g} seconds")


class _Follower(Thread):
    """Tells one tracker in a thread of its own, as a server that hangs or a login prompt must not stop the search."""

    def __init__(self, name: str, folder: Path, settings: Mapping[str, Any]) -> None:
        super().__init__(name=name, daemon=True)
        self._run = folder, settings
        self._events: Queue[Event | Decision | None] = Queue(WAITING)
        self._begun: set[str] = set()
        self.is_out = False

    def put(self, event: Event | Decision | None) -> None:
        """None tells the tracker that the search has ended."""
        if not self.is_out:
            try:
                self._events.put_nowait(event)
            except Full:
                self.leave_out(f"it is too slow: {WAITING} events wait for it")

    def leave_out(self, reason: str) -> None:
        """Send the tracker nothing more, and warn once."""
        if not self.is_out:
            self.is_out = True
            log.warning("warning: --track %s: left out from here on: %s", self.name, reason)

    def run(self) -> None:
        tracker = None
        try:
            tracker = TRACKERS[self.name].open(*self._run)
            while (event := self._events.get()) is not None and not self.is_out:
                self._tell(tracker, event)
            tracker.close()
        except Exception as error:  # noqa: BLE001 - it runs the code of another package, which must not end a search
            self.leave_out(f"{type(error).__name__}: {error}")
            if tracker is not None:
                with suppress(Exception):  # what it still holds open, where it can
                    tracker.close()

    def _tell(self, tracker: Tracker, event: Event | Decision) -> None:
        if isinstance(event, Decision):
            # The judge `point` gives no interval.
            interval = dict(zip(("low", "high"), event.ci, strict=True)) if event.level else {}
            tracker.log(VERDICTS, {"gain": event.gain, **interval, "kept": float(event.kept)}, event.step)
            return
        name, update, candidate = name_of(event.training), event.update, event.training.candidate
        known = {"layout": candidate.layout, "edit": candidate.edit, "seed": event.training.seed}
        if isinstance(update, Started):
            self._begun.add(name)
            tracker.begin(name, {**known, "worker": update.worker})
            return
        epochs = [update] if isinstance(update, Epoch) else []
        if name not in self._begun:
            self._begun.add(name)
            tracker.begin(name, known)
            if isinstance(update, Record):  # it was reused, or it ended while no search ran: all comes at once
                epochs = list(update.curve)
        for epoch in epochs:
            tracker.log(name, epoch.metrics, epoch.number)
        if isinstance(update, Record):
            self._end(tracker, name, update)

    def _end(self, tracker: Tracker, name: str, record: Record) -> None:
        self._begun.discard(name)
        if isinstance(record.outcome, Score):
            tracker.log(name, {"score": record.outcome.accuracy}, len(record.curve))
        if isinstance(tracker, EndsTrainings):
            tracker.end(name)


def name_of(training: Training) -> str:
    return f"{training.candidate.layout.replace('|', '-')}-{training.id}"
