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

from buildup.search.evaluate import (
    Ended,
    EpochDone,
    Event,
    Started,
    attempt_folder,
    attempts,
    final_record,
)
from buildup.trials.outcome import Epoch, Failure, Reason, Record, Score
from buildup.trials.training import CHECKPOINT, WEIGHTS, Training

RESUMABLE = (CHECKPOINT, WEIGHTS)
"""What an attempt leaves that another can go on from; weights alone when it died between its end and its record."""
STOP = "stop"
DEATHS = 3
"""How often a training may lose its worker before it counts as lost, without an epoch more in between."""
PATIENCE = 20.0
"""Seconds that a new worker gets to come up before an idle one takes its training over."""

Train = Callable[[Any], Generator[Epoch, None, Score]]
MakeJob = Callable[[Training, Path, Path | None], Any]
Borrow = Callable[[Training, Path], None]
"""Puts a training into its folder, if somebody has it already."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """All that a worker needs for one attempt, sent to it as it is."""

    train: Train
    job: Any
    folder: Path

    def __deepcopy__(self, memo: object) -> "Order":
        # Frozen, and the scheduler copies its configurations many times.
        return self

    def __repr__(self) -> str:
        return self.folder.parent.name


@dataclass(frozen=True, slots=True, kw_only=True)
class Begun:
    """A worker's report: it took its order up."""

    host: str
    pid: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Idle:
    """A worker's report: nothing to do."""


Report = Begun | Epoch | Record | Idle


def is_broken(record: Record) -> bool:
    """Whether the code raised: it may have left anything behind, a GPU that answers every call with an error for one.

    Such a worker gets no other training.
    """
    return isinstance(record.outcome, Failure) and record.outcome.reason is Reason.BROKEN


class State(Enum):
    """What a worker does."""

    STARTING = auto()
    TRAINING = auto()
    STOPPING = auto()
    """It ends with the epoch it is in, which is no longer needed; or it leaves, because what it ran was broken."""
    IDLE = auto()


@dataclass(slots=True, kw_only=True)
class Post:
    """A worker at work on an attempt, or idle after it."""

    training: Training
    attempt: int
    folder: Path
    fresh: bool
    """Whether a new worker is being started for it, as against an idle one taking over."""
    since: float = field(default_factory=time.monotonic)
    state: State = State.STARTING
    begun: Begun | None = None


class Desk:
    """What is wanted, who works on what, and the events that the search has not taken yet."""

    def __init__(self, *, folder: Path, train: Train, job: MakeJob, workers: int, borrow: Borrow | None = None) -> None:
        self.events: queue.SimpleQueue[Event] = queue.SimpleQueue()
        self.posts: dict[str, Post] = {}
        self.closed = False
        self._folder = folder
        self._train = train
        self._job = job
        self._workers = workers
        self._borrow = borrow
        self._lock = threading.Lock()
        self._wanted: dict[str, Training] = {}
        self._ended: set[str] = set()
        self._deaths: Counter[str] = Counter()
        """Since a training last got further than it had been."""
        self._reached: Counter[str] = Counter()
        self._reserved: Training | None = None

    def __reduce__(self) -> tuple[type[object], tuple[()]]:
        # The scheduler writes down the settings that it was made with. There is nothing to be got back from them.
        return object, ()

    def want(self, wanted: Sequence[Training]) -> None:
        """Change what is wanted. A training with a final record is adopted at once."""
        with self._lock:
            known = self._wanted.keys() | self._ended_or_at_work()
            new = [training for training in wanted if training.id not in known]
            self._wanted = {training.id: training for training in wanted}
            for training in new:
                self._adopts(training)

    @property
    def pending(self) -> bool:
        """Whether anything is left to be trained."""
        with self._lock:
            return bool(self._at_work() or self._wanted.keys() - self._ended)

    def next_order(self, name: str) -> Order | None:
        """What the scheduler should start now, under a name of its own."""
        with self._lock:
            fresh = self._reserved is None
            training = self._reserved or self._for_a_new_worker()
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
            self.posts[name] = Post(training=training, attempt=number, folder=own, fresh=fresh)
            return Order(train=self._train, job=job, folder=own)

    def hand_in(self, name: str, report: Report) -> bool:
        """Take a worker's report; True when the worker should be handed to the next training."""
        with self._lock:
            post = self.posts[name]
            training = post.training
            match report:
                case Begun():
                    post.begun = report
                    post.state = State.TRAINING
                    if training.id in self._wanted:
                        worker = f"{report.host}:{report.pid}"
                        self.events.put(Started(training=training, attempt=post.attempt, worker=worker))
                case Epoch() if post.state is State.TRAINING:
                    if report.number > self._reached[training.id]:
                        self._reached[training.id] = report.number
                        self._deaths[training.id] = 0
                    self.events.put(EpochDone(training=training, epoch=report))
                case Record():
                    if post.state is State.TRAINING:
                        self._end(training, report)
                    post.state = State.STOPPING if is_broken(report) else State.IDLE
                case Idle():
                    post.state = State.IDLE
            if post.state is State.TRAINING and training.id not in self._wanted:
                post.state = State.STOPPING
                (post.folder / STOP).touch()
                if not isinstance(report, Begun):
                    self._fail(training, Reason.UNNEEDED, "a verdict fell without it, so it ended with this epoch")
            return post.state is State.IDLE and self._hands_over()

    def leave(self, name: str, error: str | None) -> None:
        """A worker is gone from its post: dismissed, handed over, or dead with an error."""
        with self._lock:
            post = self.posts.pop(name)
            training = post.training
            if self.closed or error is None or post.state not in {State.STARTING, State.TRAINING}:
                return
            self._deaths[training.id] += 1
            if training.id not in self._wanted:
                if post.state is State.TRAINING:
                    self._fail(training, Reason.UNNEEDED, "a verdict fell without it, and its worker died")
            elif self._deaths[training.id] >= DEATHS:
                self._fail(training, Reason.LOST, _lost(training, self._reached[training.id], error))
                self._ended.add(training.id)

    def busy(self) -> list[Begun]:
        """The workers that are in the middle of something."""
        with self._lock:
            return [post.begun for post in self.posts.values() if post.begun and post.state is not State.IDLE]

    def _ended_or_at_work(self) -> set[str]:
        return self._ended | self._at_work()

    def _at_work(self) -> set[str]:
        return {post.training.id for post in self.posts.values() if post.state in {State.STARTING, State.TRAINING}}

    def _waiting(self) -> list[Training]:
        """Those that should run now and do not, most important first."""
        busy = self._ended_or_at_work()
        room = self._workers - sum(post.state is not State.IDLE for post in self.posts.values())
        waiting = [training for key, training in self._wanted.items() if key not in busy]
        return waiting[: max(0, room)]

    def _next(self, skipped: int = 0) -> Training | None:
        """The first of those that wait, but for some, and for what another run has finished since it was wanted."""
        while len(waiting := self._waiting()) > skipped:
            if not (self._borrow and self._adopts(waiting[skipped])):
                return waiting[skipped]
        return None

    def _adopts(self, training: Training) -> bool:
        """Take a final record for the training's end, if there is one here or to be borrowed."""
        if self._borrow:
            self._borrow(training, self._folder / training.id)
        found = final_record(self._folder / training.id)
        if found:
            self._end(training, found[1])
        return found is not None

    def _for_a_new_worker(self) -> Training | None:
        """The first of those that no idle worker is there for."""
        idle = sum(post.state is State.IDLE for post in self.posts.values())
        return self._next(idle) if len(self.posts) < self._workers else None

    def _hands_over(self) -> bool:
        """Whether an idle worker should be given to another training now, which is then set aside for it."""
        if self._reserved:
            return False
        coming = [post for post in self.posts.values() if post.state is State.STARTING and post.fresh]
        if coming:
            # Whoever starts first gets the idle worker. So none is given away while a new one comes up, unless that
            # takes too long, as after the loss of a node: then it serves the training that waits for the new one.
            return time.monotonic() - min(post.since for post in coming) > PATIENCE
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
        f"the training {training.id} ({training.candidate.layout}) lost its worker {DEATHS} times, and got no further "
        f"than epoch {epochs} in between. Ray says:\n{error}\nWhere memory is short, fewer trainings side by side "
        f"(--workers) leave more for each."
    )
