"""Thread-safe queue of requested trainings and worker events.

The search runs in one thread: it requests trainings and receives events. The scheduler runs in another: it asks what
to start next and passes on what workers report. A worker whose training has ended stays idle until it gets the next
one, because starting a process takes seconds and reusing one takes a few milliseconds.
"""

import logging
import queue
import re
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from uuid import uuid4

from buildup.errors import RemoteError, RunError
from buildup.execution.storage_watch import StorageWatch
from buildup.execution.workers import BUSY, Hosts, Leaving, Watch, WorkerSlot, WorkerState
from buildup.execution.workplace import WORK, Elsewhere, stop_attempt
from buildup.store.remote_folder import RemoteFolder
from buildup.store.run_dir import attempt_folder, attempts, note_remote, remote_of
from buildup.trials.event import Event, Started, Update
from buildup.trials.outcome import Epoch, Failure, Reason, Record, Score
from buildup.trials.training import Training

log = logging.getLogger("buildup")

ENDING = frozenset({Reason.BROKEN, Reason.HOST_FAULT, Reason.OUT_OF_MEMORY})
"""The reasons of failures after which a worker's process ends."""
MAX_WORKER_LOSSES = 3
"""A training fails when it has lost its worker, or its machine failed, so many times without a new epoch in between."""
WORKER_START_TIMEOUT = 20.0
"""Seconds after which an idle worker takes over the training that a new worker was started for."""

Train = Callable[[Any], Generator[Epoch, None, Score]]
MakeJob = Callable[[Training, Path, Sequence[Path]], Any]
"""Makes the job of a training, given its attempt folder and those of earlier attempts, the newest first."""
FetchReusable = Callable[[Training, Path], None]
"""Copies a finished training of another run into the given folder, if there is one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Assignment:
    """One attempt at a training, as it is sent to a worker."""

    train: Train
    job: Any
    folder: Path
    """Where it writes; with a storage, relative to the temporary folder of its machine."""
    attempt: int
    raised_before: bool = True
    """Whether an earlier attempt raised an exception. Only then is another one an outcome."""
    avoided: frozenset[str] = frozenset()
    """The nodes that a new worker for it is not placed on."""
    expected: Mapping[str, str] = field(default_factory=dict)
    """The software of the driver, which the worker must have, too."""
    elsewhere: Elsewhere | None = None
    """Where the files of the folder are copied to. Without it, all machines see the folder."""

    def in_folder(self, temporary: Path) -> "Assignment":
        """This assignment with the paths of a machine, given its temporary folder.

        The job must be a dataclass with `folder` and `resume_from`.
        """
        assert self.elsewhere is not None
        earlier = tuple((temporary / folder, remote) for folder, remote in self.elsewhere.earlier)
        folder, before = temporary / self.folder, tuple(str(folder) for folder, _ in earlier)
        job = replace(self.job, folder=str(folder), resume_from=before)
        return replace(self, folder=folder, job=job, elsewhere=replace(self.elsewhere, earlier=earlier))

    def __deepcopy__(self, memo: object) -> "Assignment":
        # Ray Tune copies its configurations many times, and this value is frozen.
        return self

    def __repr__(self) -> str:
        return self.folder.parent.name


def ends_process(record: Record) -> bool:
    """Whether the worker that sends a record gets no other training.

    After an exception its process may be damaged, for example by a GPU error that persists, or by memory that ran out
    while a step was captured.
    """
    return isinstance(record.outcome, Failure) and record.outcome.reason in ENDING


class TrialDispatcher:
    """The requested trainings, the workers, and the events that the search has not received yet."""

    def __init__(
        self,
        *,
        folder: Path,
        train: Train,
        job: MakeJob,
        workers: int,
        fetch_reusable: FetchReusable | None = None,
        hosts: Hosts | None = None,
        expected: Mapping[str, str] | None = None,
        count: Callable[..., None] = lambda *_: None,
        remote: RemoteFolder | None = None,
    ) -> None:
        """Prepare for requests. The arguments that are not explained here are those of `RayEvaluator`.

        Args:
            hosts: What is known of the machines.
            expected: The software that workers must have.
            count: Is told what happens, by the names of `execution/counters.py`.
        """
        self.events: queue.SimpleQueue[Event] = queue.SimpleQueue()
        self.slots: dict[str, WorkerSlot] = {}
        self.closed = False
        self._folder = folder
        self._train = train
        self._job = job
        self._workers = workers
        self._fetch_reusable = fetch_reusable
        self._hosts = hosts or Hosts()
        self._expected = expected or {}
        self._count = count
        self._remote = remote
        self._storage = StorageWatch(remote, folder)
        self._work = Path(f"{WORK}{uuid4().hex[:12]}")
        """In the temporary folder of each machine: where attempts are that are copied to the storage."""
        self._lock = threading.Lock()
        self._requested: dict[str, Training] = {}
        self._ended: set[str] = set()
        self._raised: set[str] = set()
        """The trainings that have raised an exception once."""
        self._avoided: defaultdict[str, frozenset[str]] = defaultdict(frozenset)
        """The nodes on which a training failed, by training, where others have room."""
        self._losses: Counter[str] = Counter()
        """Lost workers and faults of machines of each training since it last reached a new epoch."""
        self._reached: Counter[str] = Counter()
        """The last epoch of each training."""
        self._reserved: tuple[Training, frozenset[str]] | None = None
        """The training that the next idle worker takes, and the nodes that this worker was not placed on."""
        self._watch = Watch()

    def __reduce__(self) -> tuple[type[object], tuple[()]]:
        # Ray Tune pickles its configuration, which refers to this object; nobody unpickles it.
        return object, ()

    def request(self, requested: Sequence[Training]) -> None:
        """Replace the requested trainings. One that has a final record already ends at once."""
        with self._lock:
            known = self._requested.keys() | self._ended | self._running_ids()
            self._requested = {training.id: training for training in requested}
            for training in requested:
                if training.id not in known and not self._storage.is_away:
                    self._adopt_finished(training)

    @property
    def pending(self) -> bool:
        with self._lock:
            return bool(self._running_ids() or self._requested.keys() - self._ended)

    def next_assignment(self, name: str) -> Assignment | None:
        """What the scheduler should start now in the worker slot `name`; None if nothing."""
        with self._lock:
            if fresh := self._reserved is None:
                training = self._next_for_new_worker()
                if training is None:
                    return None
                avoided = self._hosts.avoidable(self._avoided[training.id])
            else:
                (training, avoided), self._reserved = self._reserved, None
            folder = self._folder / training.id
            earlier = attempts(folder)
            number = max(earlier, default=0) + 1
            own, before = attempt_folder(folder, number), [attempt_folder(folder, one) for one in reversed(earlier)]
            own.mkdir(parents=True)
            self.slots[name] = WorkerSlot(training=training, folder=own, fresh=fresh, avoided=avoided)
            elsewhere = None
            if self._remote:
                remote = self._remote / training.id / own.name
                note_remote(own, remote)
                work = self._work / f"{training.id}.{number}"
                states = [(work / one.name, there) for one in before if (there := remote_of(one))]
                elsewhere = Elsewhere(own=remote, earlier=tuple(states))
                own, before = work / own.name, [place for place, _ in states]
            return Assignment(
                train=self._train,
                job=self._job(training, own, before),
                folder=own,
                elsewhere=elsewhere,
                attempt=number,
                raised_before=training.id in self._raised,
                avoided=avoided,
                expected=self._expected,
            )

    def report(self, name: str, update: Update | Leaving | None) -> bool:
        """Process what the worker of a slot reports, None when it is idle; returns whether to give it other work."""
        with self._lock:
            slot = self.slots[name]
            training = slot.training
            if update is not None:
                slot.hear(update)
            match update:
                case Started():
                    slot.started = update
                    slot.state = WorkerState.TRAINING
                    self._count("trainings_started")
                    if training.id in self._requested:
                        self._emit(training, update)
                case Epoch() if slot.state is WorkerState.TRAINING:
                    if update.number > self._reached[training.id]:
                        self._reached[training.id] = update.number
                        self._losses[training.id] = 0
                        self._count("epochs")
                    self._emit(training, update)
                case Record():
                    if slot.state is WorkerState.TRAINING and not self._is_repeated(slot, update):
                        self._ended.add(training.id)
                        self._end(training, update)
                    slot.state = WorkerState.STOPPING if ends_process(update) else WorkerState.IDLE
                case Leaving():
                    slot.leaving = True
                    log.warning("worker     %s was asked to end, and does so after its epoch", slot.name)
                case None:
                    slot.state = WorkerState.IDLE
            if slot.state is WorkerState.TRAINING and training.id not in self._requested:
                slot.state = WorkerState.STOPPING
                stop_attempt(slot.folder)
                if not isinstance(update, Started):
                    self._fail(training, Reason.UNNEEDED, "a verdict fell without it, so it ended with this epoch")
            return slot.state is WorkerState.IDLE and self._reserve_next(slot)

    def release(self, name: str, error: str | None) -> None:
        """Remove a worker slot: its worker was dismissed, was given another training, or died with an error."""
        with self._lock:
            slot = self.slots.pop(name)
            if self.closed or error is None or slot.state not in BUSY:
                return
            if slot.leaving:
                self._put_back(slot, f"worker     {slot.name} has ended")
                return
            self._lose(slot, f"worker     {slot.name} died: {_cause(error)}", f"Ray says:\n{error}")

    def busy_workers(self) -> list[Started]:
        with self._lock:
            return [slot.started for slot in self.slots.values() if slot.started and slot.state is not WorkerState.IDLE]

    def watch(self, stall_timeout: float | None = None) -> list[Started]:
        """Log which workers have been silent for long, and return those to end for it."""
        with self._lock:
            waiting = bool(self._requested.keys() - self._ended)
            if not self._storage.answers():  # a worker may wait for it, too
                waiting, stall_timeout = False, None
            stalled = self._watch.look(self.slots.values(), waiting, stall_timeout)
            for _ in stalled:
                self._count("stalls")
            return stalled

    def _running_ids(self) -> set[str]:
        return {slot.training.id for slot in self.slots.values() if slot.state in BUSY}

    def _usable(self) -> list[WorkerSlot]:
        """All workers but those left idle because their host failed too often."""
        slots = self.slots.values()
        return [slot for slot in slots if slot.state is not WorkerState.IDLE or slot.node not in self._hosts.excluded]

    def _waiting(self) -> list[Training]:
        """The requested trainings that may start now, in their order."""
        limit = min(self._workers, self._hosts.room)
        # One that is wanted again while its worker still finishes an epoch of it waits: two never have the same one.
        occupied = [slot.training.id for slot in self.slots.values() if slot.state is not WorkerState.IDLE]
        room, started = limit - len(occupied), self._ended | set(occupied)
        waiting = [training for key, training in self._requested.items() if key not in started]
        return waiting[: int(max(0, room))]

    def _next_for_new_worker(self) -> Training | None:
        """The first waiting training that no idle worker takes; None if there is none, or no room for a worker."""
        usable = self._usable()

        def choose(waiting: list[Training]) -> Training | None:
            for slot in usable:
                if slot.state is WorkerState.IDLE and (taken := self._fitting(waiting, slot.node)):
                    waiting.remove(taken)
            return next(filter(self._fits_elsewhere, waiting), None)

        return self._unfinished(choose) if len(usable) < min(self._workers, self._hosts.room) else None

    def _next_for(self, slot: WorkerSlot) -> Training | None:
        """The first waiting training for an idle worker: one that has not failed on its host, if others can start."""
        full = len(self._usable()) >= min(self._workers, self._hosts.room)

        def choose(waiting: list[Training]) -> Training | None:
            return self._fitting(waiting, slot.node) or (waiting[0] if full and waiting else None)

        return self._unfinished(choose)

    def _unfinished(self, choose: Callable[[list[Training]], Training | None]) -> Training | None:
        """The chosen one of the waiting trainings, unless it is found to be finished; None if none may start."""
        while training := choose(self._waiting()):
            if self._storage.answers():
                if not self._adopt_finished(training):
                    return training
            elif cause := self._storage.given_up:
                self._ended.add(training.id)
                self._fail(training, Reason.REFUSED, cause)
            else:
                return None
        return None

    def _fits_elsewhere(self, training: Training) -> bool:
        avoided = self._hosts.avoidable(self._avoided[training.id])
        others = sum(slot.node not in avoided for slot in self.slots.values())
        return not avoided or self._hosts.places(avoided) > others

    def _fitting(self, waiting: Sequence[Training], node: str) -> Training | None:
        return next((training for training in waiting if node not in self._avoided[training.id]), None)

    def _adopt_finished(self, training: Training) -> bool:
        """End a training that this run or another one has finished: a worker may have died before it reported that.

        Returns whether it has ended; also true if nobody can say, because the storage does not answer.
        """
        if self._fetch_reusable:
            self._fetch_reusable(training, self._folder / training.id)
        try:
            found = self._storage.record_of(training.id)
        except RemoteError:
            return True
        except RunError as problem:
            self._ended.add(training.id)
            self._fail(training, Reason.REFUSED, str(problem))
            return True
        if found:
            self._ended.add(training.id)
            self._emit(training, found[1])
        return found is not None

    def _reserve_next(self, slot: WorkerSlot) -> bool:
        """Whether an idle worker should be given another training now, which is then reserved for it."""
        if self._reserved or slot.leaving or slot.node in self._hosts.excluded:
            return False
        coming = [slot for slot in self.slots.values() if slot.state is WorkerState.STARTING]
        if any(time.monotonic() - one.since > WORKER_START_TIMEOUT for one in coming):
            # As after the loss of a node: the idle worker serves the trial that waits. It may also hold the room that
            # a new worker needs.
            return True
        if any(one.fresh for one in coming):
            # Ray Tune gives the idle worker to whichever trial starts first. So none is offered while a new worker
            # starts.
            return False
        if training := self._next_for(slot):
            # Tune reuses a worker for a trial that asks for the same nodes only.
            self._reserved = training, slot.avoided
        return self._reserved is not None

    def _is_repeated(self, slot: WorkerSlot, record: Record) -> bool:
        """Whether a training is tried again after a record that says nothing of the candidate, or not yet."""
        if not isinstance(record.outcome, Failure) or slot.started is None:
            return False
        key, outcome = slot.training.id, record.outcome
        told = f"{slot.name}: {outcome.summary}"
        if outcome.reason is Reason.BROKEN and key not in self._raised:
            self._raised.add(key)
            self._avoid(slot)
            self._put_back(slot, f"exception  {told}; it counts only if it comes again")
        elif outcome.reason is Reason.HOST_FAULT and not self._storage.answers(now=True):
            self._put_back(slot, f"storage    {told}")
        elif outcome.reason is Reason.HOST_FAULT:
            self._hosts.add_fault(slot.started)
            self._avoid(slot)
            self._count_loss(
                slot,
                f"fault      {told}",
                Reason.HOST_FAULT,
                f"ended {MAX_WORKER_LOSSES} times by faults of machines",
                f"The last one was on {slot.started.host}: {outcome.summary}\n"
                "Look at that machine: its GPUs (nvidia-smi), its disks and its log.",
            )
        elif outcome.reason is Reason.LOST:  # one of the processes of its worker
            self._lose(slot, f"worker     {told}", f"Last, {outcome.message}.")
        else:
            return False
        return True

    def _lose(self, slot: WorkerSlot, told: str, error: str) -> None:
        self._count_loss(
            slot,
            told,
            Reason.LOST,
            f"lost its worker {MAX_WORKER_LOSSES} times",
            f"{error}\nWhere memory is short, fewer trainings side by side (--workers) leave more for each.",
        )

    def _avoid(self, slot: WorkerSlot) -> None:
        key = slot.training.id
        self._avoided[key] = self._hosts.avoidable(self._avoided[key] | {slot.node})

    def _count_loss(self, slot: WorkerSlot, told: str, reason: Reason, what: str, advice: str) -> None:
        """Count an attempt that ended by no fault of the candidate. The last of too many ends the training."""
        key = slot.training.id
        self._losses[key] += 1
        if key in self._requested and self._losses[key] >= MAX_WORKER_LOSSES:
            self._ended.add(key)
            message = (
                f"the training {key} ({slot.training.candidate.layout}) {what}, and got no further than epoch "
                f"{self._reached[key]} in between. {advice}"
            )
            self._fail(slot.training, reason, message)
        else:
            self._put_back(slot, told)

    def _put_back(self, slot: WorkerSlot, told: str) -> None:
        if slot.training.id in self._requested:
            self._count("retries")
            after = f"after epoch {reached}" if (reached := self._reached[slot.training.id]) else "from the start"
            log.warning("%s; %s goes on from its last checkpoint, %s at most", told, slot.training, after)
        elif slot.state is WorkerState.TRAINING:
            self._fail(slot.training, Reason.UNNEEDED, "a verdict fell without it, and its worker ended")

    def _fail(self, training: Training, reason: Reason, message: str) -> None:
        self._end(training, Record(outcome=Failure(reason=reason, message=message), curve=()))

    def _end(self, training: Training, record: Record) -> None:
        if isinstance(record.outcome, Failure):
            self._count("trainings_failed", record.outcome.reason.value)
        else:
            self._count("trainings_finished")
        self._emit(training, record)

    def _emit(self, training: Training, update: Update) -> None:
        self.events.put(Event(training=training, update=update))


def _cause(error: str) -> str:
    """What Ray says of the death of a worker, in a line.

    >>> _cause("ActorDiedError: The actor died.\\n Worker exit type: SYSTEM_ERROR Worker exit detail: It left.")
    'It left.'
    """
    detail = re.search(r"Worker exit detail: (.+?)(?: Some common causes|\n|$)", error)
    lines = [line.strip() for line in error.splitlines() if "Error:" in line] or error.strip().splitlines()[-1:]
    return (detail.group(1) if detail else lines[-1] if lines else "no reason")[:200]
