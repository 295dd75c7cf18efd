"""The desk between the search and its workers: what is wanted lies here, what workers report comes by.

The search (one thread) says what it wants and takes events; the scheduler (another thread) asks what to start and
hands in reports. A worker whose training is over is not dismissed: it idles until the next training is there to be
handed over to it, because a new process costs seconds and a warm one a few milliseconds.
"""

import queue
import threading
import time
from collections import Counter
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from enum import Enum, auto
from pathlib import Path
from typing import Any

from buildup.store.run_dir import attempt_folder, attempts, final_record
from buildup.trials.event import Ended, EpochDone, Event, Started
from buildup.trials.outcome import Epoch, Failure, Reason, Record, Score
from buildup.trials.training import CHECKPOINT, WEIGHTS, Training

RESUMABLE = (CHECKPOINT, WEIGHTS)
"""What an attempt leaves that another can go on from; weights alone when it died between its end and its record."""
STOP = "stop"
MAX_WORKER_LOSSES = 3
"""How often a training may lose its worker before it counts as lost, without an epoch more in between."""
WORKER_START_TIMEOUT = 20.0
"""Seconds that a new worker gets to come up before an idle one takes its training over."""

Train = Callable[[Any], Generator[Epoch, None, Score]]
MakeJob = Callable[[Training, Path, Path | None], Any]
FetchReusable = Callable[[Training, Path], None]
"""Puts a training into its folder, if somebody has it already."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Assignment:
    """All that a worker needs for one attempt, sent to it as it is."""

    train: Train
    job: Any
    folder: Path

    def __deepcopy__(self, memo: object) -> "Assignment":
        # Frozen, and the scheduler copies its configurations many times.
        return self

    def __repr__(self) -> str:
        return self.folder.parent.name


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerStarted:
    """A worker's report: it took its order up."""

    host: str
    pid: int


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerIdle:
    """A worker's report: nothing to do."""


WorkerReport = WorkerStarted | Epoch | Record | WorkerIdle


def is_broken(record: Record) -> bool:
    """Whether the code raised: it may have left anything behind, a GPU that answers every call with an error for one.

    Such a worker gets no other training.
    """
    return isinstance(record.outcome, Failure) and record.outcome.reason is Reason.BROKEN


class WorkerState(Enum):
    """What a worker does."""

    STARTING = auto()
    TRAINING = auto()
    STOPPING = auto()
    """It ends with the epoch it is in, which is no longer needed; or it leaves, because what it ran was broken."""
    IDLE = auto()


@dataclass(slots=True, kw_only=True)
class WorkerSlot:
    """A worker at work on an attempt, or idle after it."""

    training: Training
    attempt: int
    folder: Path
    fresh: bool
    """Whether a new worker is being started for it, as against an idle one taking over."""
    since: float = field(default_factory=time.monotonic)
    state: WorkerState = WorkerState.STARTING
    started: WorkerStarted | None = None


class TrialDispatcher:
    """What is wanted, who works on what, and the events that the search has not taken yet."""

    def __init__(
        self, *, folder: Path, train: Train, job: MakeJob, workers: int, fetch_reusable: FetchReusable | None = None
    ) -> None:
        self.events: queue.SimpleQueue[Event] = queue.SimpleQueue()
        self.slots: dict[str, WorkerSlot] = {}
        self.closed = False
        self._folder = folder
        self._train = train
        self._job = job
        self._workers = workers
        self._fetch_reusable = fetch_reusable
        self._lock = threading.Lock()
        self._requested: dict[str, Training] = {}
        self._ended: set[str] = set()
        self._losses: Counter[str] = Counter()
        """Since a training last got further than it had been."""
        self._reached: Counter[str] = Counter()
        self._reserved: Training | None = None

    def __reduce__(self) -> tuple[type[object], tuple[()]]:
        # The scheduler writes down the settings that it was made with. There is nothing to be got back from them.
        return object, ()

    def request(self, requested: Sequence[Training]) -> None:
        """Change what is wanted. A training with a final record is adopted at once."""
        with self._lock:
            known = self._requested.keys() | self._ended_or_running_ids()
            new = [training for training in requested if training.id not in known]
            self._requested = {training.id: training for training in requested}
            for training in new:
                self._adopt_finished(training)

    @property
    def pending(self) -> bool:
        """Whether anything is left to be trained."""
        with self._lock:
            return bool(self._running_ids() or self._requested.keys() - self._ended)

    def next_assignment(self, name: str) -> Assignment | None:
        """What the scheduler should start now, under a name of its own."""
        with self._lock:
            fresh = self._reserved is None
            training = self._reserved or self._next_for_new_worker()
            if training is None:
                return None
            self._reserved = None
            folder = self._folder / training.id
            earlier_attempts = attempts(folder)
            number = max(earlier_attempts, default=0) + 1
            own = attempt_folder(folder, number)
            own.mkdir(parents=True)
            before = (attempt_folder(folder, earlier) for earlier in reversed(earlier_attempts))
            resumed = next((one for one in before if any((one / file).is_file() for file in RESUMABLE)), None)
            job = self._job(training, own, resumed)
            self.slots[name] = WorkerSlot(training=training, attempt=number, folder=own, fresh=fresh)
            return Assignment(train=self._train, job=job, folder=own)

    def report(self, name: str, report: WorkerReport) -> bool:
        """Take a worker's report; True when the worker should be handed to the next training."""
        with self._lock:
            slot = self.slots[name]
            training = slot.training
            match report:
                case WorkerStarted():
                    slot.started = report
                    slot.state = WorkerState.TRAINING
                    if training.id in self._requested:
                        worker = f"{report.host}:{report.pid}"
                        self.events.put(Started(training=training, attempt=slot.attempt, worker=worker))
                case Epoch() if slot.state is WorkerState.TRAINING:
                    if report.number > self._reached[training.id]:
                        self._reached[training.id] = report.number
                        self._losses[training.id] = 0
                    self.events.put(EpochDone(training=training, epoch=report))
                case Record():
                    if slot.state is WorkerState.TRAINING:
                        self._end(training, report)
                    slot.state = WorkerState.STOPPING if is_broken(report) else WorkerState.IDLE
                case WorkerIdle():
                    slot.state = WorkerState.IDLE
            if slot.state is WorkerState.TRAINING and training.id not in self._requested:
                slot.state = WorkerState.STOPPING
                (slot.folder / STOP).touch()
                if not isinstance(report, WorkerStarted):
                    self._fail(training, Reason.UNNEEDED, "a verdict fell without it, so it ended with this epoch")
            return slot.state is WorkerState.IDLE and self._reassigns()

    def release(self, name: str, error: str | None) -> None:
        """A worker is gone from its post: dismissed, handed over, or dead with an error."""
        with self._lock:
            slot = self.slots.pop(name)
            training = slot.training
            if self.closed or error is None or slot.state not in {WorkerState.STARTING, WorkerState.TRAINING}:
                return
            self._losses[training.id] += 1
            if training.id not in self._requested:
                if slot.state is WorkerState.TRAINING:
                    self._fail(training, Reason.UNNEEDED, "a verdict fell without it, and its worker died")
            elif self._losses[training.id] >= MAX_WORKER_LOSSES:
                self._fail(training, Reason.LOST, _lost(training, self._reached[training.id], error))
                self._ended.add(training.id)

    def busy_workers(self) -> list[WorkerStarted]:
        """The workers that are in the middle of something."""
        with self._lock:
            return [slot.started for slot in self.slots.values() if slot.started and slot.state is not WorkerState.IDLE]

    def _ended_or_running_ids(self) -> set[str]:
        return self._ended | self._running_ids()

    def _running_ids(self) -> set[str]:
        return {
            slot.training.id
            for slot in self.slots.values()
            if slot.state in {WorkerState.STARTING, WorkerState.TRAINING}
        }

    def _waiting(self) -> list[Training]:
        """Those that should run now and do not, most important first."""
        busy_workers = self._ended_or_running_ids()
        room = self._workers - sum(slot.state is not WorkerState.IDLE for slot in self.slots.values())
        waiting = [training for key, training in self._requested.items() if key not in busy_workers]
        return waiting[: max(0, room)]

    def _next(self, skipped: int = 0) -> Training | None:
        """The first of those that wait, but for some, and for what another run has finished since it was wanted."""
        while len(waiting := self._waiting()) > skipped:
            if not (self._fetch_reusable and self._adopt_finished(waiting[skipped])):
                return waiting[skipped]
        return None

    def _adopt_finished(self, training: Training) -> bool:
        """Take a final record for the training's end, if there is one here or to be borrowed."""
        if self._fetch_reusable:
            self._fetch_reusable(training, self._folder / training.id)
        found = final_record(self._folder / training.id)
        if found:
            self._end(training, found[1])
        return found is not None

    def _next_for_new_worker(self) -> Training | None:
        """The first of those that no idle worker is there for."""
        idle = sum(slot.state is WorkerState.IDLE for slot in self.slots.values())
        return self._next(idle) if len(self.slots) < self._workers else None

    def _reassigns(self) -> bool:
        """Whether an idle worker should be given to another training now, which is then set aside for it."""
        if self._reserved:
            return False
        coming = [slot for slot in self.slots.values() if slot.state is WorkerState.STARTING and slot.fresh]
        if coming:
            # Whoever starts first gets the idle worker. So none is given away while a new one comes up, unless that
            # takes too long, as after the loss of a node: then it serves the training that waits for the new one.
            return time.monotonic() - min(slot.since for slot in coming) > WORKER_START_TIMEOUT
        self._reserved = self._next()
        return self._reserved is not None

    def _end(self, training: Training, record: Record) -> None:
        self._ended.add(training.id)
        self.events.put(Ended(training=training, record=record))

    def _fail(self, training: Training, reason: Reason, message: str) -> None:
        record = Record(outcome=Failure(reason=reason, message=message), curve=())
        self.events.put(Ended(training=training, record=record))


def _lost(training: Training, epochs: int, error: str) -> str:
    return (
        f"the training {training.id} ({training.candidate.layout}) lost its worker {MAX_WORKER_LOSSES} times, and got no further "
        f"than epoch {epochs} in between. Ray says:\n{error}\nWhere memory is short, fewer trainings side by side "
        f"(--workers) leave more for each."
    )
