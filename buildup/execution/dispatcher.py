"""Thread-safe queue of requested trainings and worker events.

The search runs in one thread: it requests trainings and receives events. The scheduler runs in another: it asks what
to start next and passes on what workers report. A worker whose training has ended stays idle until it gets the next
one, because starting a process takes seconds and reusing one takes a few milliseconds.
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
from buildup.trials.event import Event, Started, Update
from buildup.trials.outcome import Epoch, Failure, Reason, Record, Score
from buildup.trials.training import CHECKPOINT, WEIGHTS, Training

RESUMABLE = (CHECKPOINT, WEIGHTS)
"""Files of an attempt that another can resume from; only weights remain when it died between its end and its record."""
STOP = "stop"
"""A file with this name in an attempt's folder stops the attempt after its current epoch."""
MAX_WORKER_LOSSES = 3
"""A training fails when it has lost its worker so many times without reaching a new epoch in between."""
WORKER_START_TIMEOUT = 20.0
"""Seconds after which an idle worker takes over the training that a new worker was started for."""

Train = Callable[[Any], Generator[Epoch, None, Score]]
MakeJob = Callable[[Training, Path, Path | None], Any]
FetchReusable = Callable[[Training, Path], None]
"""Copies a finished training of another run into the given folder, if there is one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Assignment:
    """One attempt at a training, as it is sent to a worker."""

    train: Train
    job: Any
    folder: Path
    attempt: int

    def __deepcopy__(self, memo: object) -> "Assignment":
        # Ray Tune copies its configurations many times, and this value is frozen.
        return self

    def __repr__(self) -> str:
        return self.folder.parent.name


def is_broken(record: Record) -> bool:
    """Whether the code raised an exception.

    Such a worker gets no other training: its process may be damaged, for example by a GPU error that persists.
    """
    return isinstance(record.outcome, Failure) and record.outcome.reason is Reason.BROKEN


class WorkerState(Enum):
    """What a worker does."""

    STARTING = auto()
    TRAINING = auto()
    STOPPING = auto()
    """It finishes the current epoch of a training that is no longer needed, or its process ends after an exception."""
    IDLE = auto()


BUSY = frozenset({WorkerState.STARTING, WorkerState.TRAINING})


@dataclass(slots=True, kw_only=True)
class WorkerSlot:
    """A worker with its current or latest attempt."""

    training: Training
    folder: Path
    fresh: bool
    """Whether a new worker is started for this attempt, rather than an idle one reused."""
    since: float = field(default_factory=lambda: time.monotonic())
    state: WorkerState = WorkerState.STARTING
    started: Started | None = None


class TrialDispatcher:
    """The requested trainings, the workers, and the events that the search has not received yet."""

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
        """Lost workers of each training since it last reached a new epoch."""
        self._reached: Counter[str] = Counter()
        """The last epoch of each training."""
        self._reserved: Training | None = None
        """The training that the next idle worker takes."""

    def __reduce__(self) -> tuple[type[object], tuple[()]]:
        # Ray Tune pickles its configuration, which refers to this object; nobody unpickles it.
        return object, ()

    def request(self, requested: Sequence[Training]) -> None:
        """Replace the requested trainings. One that has a final record already ends at once."""
        with self._lock:
            known = self._requested.keys() | self._ended | self._running_ids()
            self._requested = {training.id: training for training in requested}
            for training in requested:
                if training.id not in known:
                    self._adopt_finished(training)

    @property
    def pending(self) -> bool:
        """Whether any training is running or requested."""
        with self._lock:
            return bool(self._running_ids() or self._requested.keys() - self._ended)

    def next_assignment(self, name: str) -> Assignment | None:
        """What the scheduler should start now in the worker slot `name`; None if nothing."""
        with self._lock:
            fresh = self._reserved is None
            training = self._reserved
            if training is None and len(self.slots) < self._workers:
                training = self._next(skipped=sum(slot.state is WorkerState.IDLE for slot in self.slots.values()))
            if training is None:
                return None
            self._reserved = None
            folder = self._folder / training.id
            earlier = attempts(folder)
            number = max(earlier, default=0) + 1
            own = attempt_folder(folder, number)
            own.mkdir(parents=True)
            before = (attempt_folder(folder, one) for one in reversed(earlier))
            resumed = next((one for one in before if any((one / file).is_file() for file in RESUMABLE)), None)
            job = self._job(training, own, resumed)
            self.slots[name] = WorkerSlot(training=training, folder=own, fresh=fresh)
            return Assignment(train=self._train, job=job, folder=own, attempt=number)

    def report(self, name: str, update: Update | None) -> bool:
        """Process what the worker of a slot reports, None when it is idle; returns whether to give it other work."""
        with self._lock:
            slot = self.slots[name]
            training = slot.training
            match update:
                case Started():
                    slot.started = update
                    slot.state = WorkerState.TRAINING
                    if training.id in self._requested:
                        self._emit(training, update)
                case Epoch() if slot.state is WorkerState.TRAINING:
                    if update.number > self._reached[training.id]:
                        self._reached[training.id] = update.number
                        self._losses[training.id] = 0
                    self._emit(training, update)
                case Record():
                    if slot.state is WorkerState.TRAINING:
                        self._ended.add(training.id)
                        self._emit(training, update)
                    slot.state = WorkerState.STOPPING if is_broken(update) else WorkerState.IDLE
                case None:
                    slot.state = WorkerState.IDLE
            if slot.state is WorkerState.TRAINING and training.id not in self._requested:
                slot.state = WorkerState.STOPPING
                (slot.folder / STOP).touch()
                if not isinstance(update, Started):
                    self._fail(training, Reason.UNNEEDED, "a verdict fell without it, so it ended with this epoch")
            return slot.state is WorkerState.IDLE and self._reserve_next()

    def release(self, name: str, error: str | None) -> None:
        """Remove a worker slot: its worker was dismissed, was given another training, or died with an error."""
        with self._lock:
            slot = self.slots.pop(name)
            training = slot.training
            if self.closed or error is None or slot.state not in BUSY:
                return
            self._losses[training.id] += 1
            if training.id not in self._requested:
                if slot.state is WorkerState.TRAINING:
                    self._fail(training, Reason.UNNEEDED, "a verdict fell without it, and its worker died")
            elif self._losses[training.id] >= MAX_WORKER_LOSSES:
                self._ended.add(training.id)
                self._fail(
                    training,
                    Reason.LOST,
                    f"the training {training.id} ({training.candidate.layout}) lost its worker {MAX_WORKER_LOSSES} "
                    f"times, and got no further than epoch {self._reached[training.id]} in between. Ray says:\n"
                    f"{error}\nWhere memory is short, fewer trainings side by side (--workers) leave more for each.",
                )

    def busy_workers(self) -> list[Started]:
        """The workers that are not idle."""
        with self._lock:
            return [slot.started for slot in self.slots.values() if slot.started and slot.state is not WorkerState.IDLE]

    def _running_ids(self) -> set[str]:
        return {slot.training.id for slot in self.slots.values() if slot.state in BUSY}

    def _next(self, skipped: int = 0) -> Training | None:
        """The first waiting training after `skipped` others, leaving out those that have a final record.

        A worker may have died between its final record and its report. A training that is wanted again while its
        worker still finishes an epoch of it waits for that: two workers never have the same one.
        """
        while True:
            occupied = {slot.training.id for slot in self.slots.values() if slot.state is not WorkerState.IDLE}
            started, room = self._ended | occupied, self._workers - len(occupied)
            waiting = [training for key, training in self._requested.items() if key not in started][: max(0, room)]
            if len(waiting) <= skipped:
                return None
            if not self._adopt_finished(waiting[skipped]):
                return waiting[skipped]

    def _adopt_finished(self, training: Training) -> bool:
        """End a training that this run or another one has finished already."""
        if self._fetch_reusable:
            self._fetch_reusable(training, self._folder / training.id)
        if found := final_record(self._folder / training.id):
            self._ended.add(training.id)
            self._emit(training, found[1])
        return found is not None

    def _reserve_next(self) -> bool:
        """Whether an idle worker should be given another training now, which is then reserved for it."""
        if self._reserved:
            return False
        coming = [slot.since for slot in self.slots.values() if slot.state is WorkerState.STARTING and slot.fresh]
        if coming:
            # Ray Tune gives the idle worker to whichever trial starts first. So none is offered while a new worker
            # starts. If that takes too long, as after the loss of a node, the idle one serves the waiting trial.
            return time.monotonic() - min(coming) > WORKER_START_TIMEOUT
        self._reserved = self._next()
        return self._reserved is not None

    def _fail(self, training: Training, reason: Reason, message: str) -> None:
        self._emit(training, Record(outcome=Failure(reason=reason, message=message), curve=()))

    def _emit(self, training: Training, update: Update) -> None:
        self.events.put(Event(training=training, update=update))
