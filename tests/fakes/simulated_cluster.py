"""A cluster on a simulated clock: it plays Ray Tune's part for the real dispatcher, and draws faults from a seed.

It calls the dispatcher as `execution/ray_tune.py` does. A trial that the dispatcher assigns waits for a new worker or
takes an idle one that another trial gave back, whichever comes first. A worker runs ahead of what it has reported, and
what it has not reported is lost with it. The order of all steps is drawn, so it includes what a real clock would do.
"""

import random
from collections import Counter, deque
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from math import inf
from pathlib import Path

from buildup.execution.attempt import run_attempt
from buildup.execution.dispatcher import Assignment, FetchReusable, TrialDispatcher, ends_process
from buildup.execution.workplace import STOP
from buildup.store.run_dir import final_record
from buildup.trials.event import Event, Started, Update
from buildup.trials.outcome import Epoch, Failed, Failure, Reason, Record, Score
from buildup.trials.training import CHECKPOINT, Training

Outcomes = Callable[[Training], tuple[Score | Failure, int]]
"""What a training comes to in every run, and after how many epochs."""
SLOTS = 2
"""Workers that fit on a node."""
FREQUENT = ("death", "node", "hang", "jump", "whim", "driver")
"""Faults that may happen at each step."""
RARE = ("slow", "lost", "twice")
"""Faults of a start or of a report."""
MOST_STEPS = 100_000
"""A search that has not ended after so many steps never will: faults end long before."""


class DriverKilled(Exception):
    """The driver's process ends here, as by `kill -9`."""


class Clock:
    """Stands in for the module `time` in the dispatcher."""

    now = 0.0

    def monotonic(self) -> float:
        return self.now


@dataclass(kw_only=True)
class Faults:
    """Draws what goes wrong. Some seeds are calm, others are not; after `left` faults everything holds."""

    chance: random.Random
    left: int = 40
    rates: dict[str, float] = field(init=False)
    happened: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self.rates = {kind: self.chance.choice([0.0, 0.002, 0.01, 0.03]) for kind in FREQUENT}
        self.rates |= {kind: self.chance.choice([0.0, 0.02, 0.1, 0.3]) for kind in RARE}

    def happens(self, kind: str) -> bool:
        found = self.left > 0 and self.chance.random() < self.rates[kind]
        self.left -= found
        self.happened[kind] += found
        return found


@dataclass(frozen=True, kw_only=True)
class ToyJob:
    """A training that counts epochs and keeps a checkpoint."""

    training: Training
    outcome: Score | Failure
    epochs: int
    folder: Path
    earlier: Sequence[Path]
    """The newest first."""

    @property
    def reached(self) -> int:
        """The epoch of the checkpoint from which it goes on."""
        kept = (folder / CHECKPOINT for folder in self.earlier)
        return next((int(path.read_text()) for path in kept if path.is_file()), 0)


def toy(job: ToyJob) -> Generator[Epoch, None, Score]:
    """Train from the checkpoint of an earlier attempt to the outcome that the training has in every run."""
    first = job.reached
    for number in range(1, job.epochs + 1):
        yield Epoch(number=number, metrics={})
        (job.folder / CHECKPOINT).write_text(str(max(first, number)))
    match job.outcome:
        case Failure(reason=Reason.BROKEN):
            raise ZeroDivisionError(job.outcome.summary.partition(": ")[2])
        case Failure():
            raise Failed(job.outcome.reason, job.outcome.message)
    return job.outcome


@dataclass(eq=False, kw_only=True)
class Worker:
    """A worker process. It gets its trial when it starts, or another one when it is reused."""

    node: int
    starts_at: float
    """When its process is ready."""
    alive: bool = True
    started: bool = False
    hangs_until: float = 0.0
    assignment: Assignment | None = None
    attempt: Generator[Epoch | Record, None, None] | None = None
    updates: deque[Update] = field(default_factory=deque)
    """What its thread has done and the scheduler has not received."""
    exits: bool = False
    """Whether its process ends with its next report, because the code of its training raised."""

    @property
    def trains(self) -> bool:
        return self.alive and self.attempt is not None

    def begin(self, assignment: Assignment) -> None:
        self.started, self.assignment = True, assignment
        self.attempt = run_attempt(
            assignment.train, assignment.job, assignment.folder, raised_before=assignment.raised_before
        )
        started = Started(attempt=assignment.attempt, host=f"node{self.node}", pid=id(self), node=f"{self.node}")
        self.updates = deque([started])

    def train(self) -> None:
        """Train to the next update, as `TrainingThread` does."""
        assert self.attempt is not None
        assert self.assignment is not None
        update = None if (self.assignment.folder / STOP).exists() else next(self.attempt, None)
        if update is None:
            self.attempt.close()
            self.attempt = None
        else:
            self.updates.append(update)


@dataclass(eq=False, kw_only=True)
class Trial:
    """What Ray Tune knows of an assignment: its name, and its worker as soon as it has one."""

    name: str
    assignment: Assignment
    worker: Worker | None = None

    @property
    def training(self) -> str:
        return self.assignment.folder.parent.name

    @property
    def runs(self) -> bool:
        return self.worker is not None and self.worker.assignment is self.assignment


class SimulatedCluster:
    """Serves the loop of a search from workers that fail."""

    def __init__(
        self,
        *,
        folder: Path,
        workers: int,
        outcome: Outcomes,
        faults: Faults,
        clock: Clock,
        fetch_reusable: FetchReusable | None = None,
    ) -> None:
        self.workers = workers
        self.steps = 0
        self._folder = folder
        self._outcome = outcome
        self._faults = faults
        self._chance = faults.chance
        self._clock = clock
        self._nodes = [0.0] * -(-workers // SLOTS)
        """When each node is there again."""
        self._requested: Sequence[Training] = ()
        self._trials: list[Trial] = []
        self._idle: list[Worker] = []
        """Workers that gave their trial back."""
        self._names = 0
        self._dispatcher = TrialDispatcher(
            folder=folder, train=toy, job=self._job, workers=workers, fetch_reusable=fetch_reusable
        )

    def request(self, trainings: Sequence[Training]) -> None:
        self._requested = trainings
        self._dispatcher.request(trainings)

    def next_event(self, timeout: float | None = None) -> Event | None:
        assert timeout is not None
        end = self._clock.now + timeout
        late = self._chance.choice([0, 0, 3, 30])
        while (self._dispatcher.events.empty() and self._clock.now < end) or (late := late - 1) > 0:
            self._step()
        if self._faults.happens("driver"):
            raise DriverKilled
        return None if self._dispatcher.events.empty() else self._dispatcher.events.get()

    def close(self) -> None:
        """End all processes, which may get on a little before."""
        self._dispatcher.closed = True
        for trial in self._trials:
            while trial.worker and trial.worker.trains and self._chance.random() < 0.5:
                trial.worker.train()

    def _job(self, training: Training, folder: Path, earlier: Sequence[Path]) -> ToyJob:
        outcome, epochs = self._outcome(training)
        job = ToyJob(training=training, outcome=outcome, epochs=epochs, folder=folder, earlier=earlier)
        kept = [int(path.read_text()) for path in folder.parent.glob(f"*/{CHECKPOINT}")]
        assert max(kept, default=0) == job.reached, f"{training.id} repeats an epoch"
        return job

    def _step(self) -> None:
        self.steps += 1
        assert self.steps < MOST_STEPS, "the search does not end"
        self._clock.now += self._chance.expovariate(5.0)
        if self._faults.happens("jump"):
            self._clock.now += 10_000
        self._fail()
        if actions := self._actions():
            self._chance.choice(actions)()
        else:
            self._clock.now += self._chance.expovariate(0.2)

    def _fail(self) -> None:
        if self._faults.happens("whim"):  # all but the first are stopped, and soon wanted again
            self._dispatcher.request(self._requested[:1])
        elif self._chance.random() < 0.2:
            self._dispatcher.request(self._requested)
        if self._faults.happens("node"):
            node = self._chance.randrange(len(self._nodes))
            others = self._nodes[:node] + self._nodes[node + 1 :]
            for_ever = min(others, default=inf) < inf and self._chance.random() < 0.3
            self._nodes[node] = inf if for_ever else self._clock.now + self._chance.expovariate(0.02)
            for worker in self._processes():
                worker.alive = worker.alive and worker.node != node
        if (processes := self._processes()) and self._faults.happens("death"):
            self._chance.choice(processes).alive = False
        if processes and self._faults.happens("hang"):
            self._chance.choice(processes).hangs_until = self._clock.now + self._chance.expovariate(0.01)

    def _processes(self) -> list[Worker]:
        return [*(trial.worker for trial in self._trials if trial.worker), *self._idle]

    def _actions(self) -> list[Callable[[], None]]:
        """What may happen next."""
        now = self._clock.now
        actions: list[Callable[[], None]] = []
        waiting = [trial for trial in self._trials if not trial.runs]
        if len(waiting) < self.workers:  # TUNE_MAX_PENDING_TRIALS_PG
            actions.append(self._ask)
        for trial in waiting:
            if self._idle:
                actions.append(lambda trial=trial: self._reuse(trial))  # type: ignore[misc]
            if trial.worker is None and self._room():
                actions.append(lambda trial=trial: self._place(trial))  # type: ignore[misc]
            if trial.worker and (trial.worker.starts_at <= now or not trial.worker.alive):
                actions.append(lambda trial=trial: self._start(trial))  # type: ignore[misc]
        for trial in self._trials:
            worker = trial.worker
            if worker and trial.runs and worker.hangs_until <= now:
                if worker.trains:
                    actions.append(worker.train)
                if worker.updates or not worker.trains:
                    actions.append(lambda trial=trial: self._receive(trial))  # type: ignore[misc]
        return actions

    def _ask(self) -> None:
        self._names += 1
        name = str(self._names)
        if assignment := self._dispatcher.next_assignment(name):
            training = assignment.folder.parent
            assert final_record(training) is None, f"{training.name} has ended, and is started again"
            self._trials.append(Trial(name=name, assignment=assignment))

    def _room(self) -> list[int]:
        """The nodes with room for a worker."""
        used = [worker.node for worker in self._processes() if worker.alive]
        return [node for node, up in enumerate(self._nodes) if up <= self._clock.now and used.count(node) < SLOTS]

    def _place(self, trial: Trial) -> None:
        seconds = self._chance.expovariate(0.01) if self._faults.happens("slow") else self._chance.uniform(2, 10)
        trial.worker = Worker(node=self._chance.choice(self._room()), starts_at=self._clock.now + seconds)

    def _start(self, trial: Trial) -> None:
        worker = trial.worker
        assert worker is not None
        if worker.alive:
            self._begin(trial, worker)
        else:
            self._remove(trial, "the actor died while it started")

    def _reuse(self, trial: Trial) -> None:
        """Give an idle worker to a trial. A worker that was started for it goes, and was never asked to train."""
        worker = trial.worker = self._idle.pop(self._chance.randrange(len(self._idle)))
        if worker.alive:
            self._begin(trial, worker)
        else:
            self._remove(trial, "the actor was found dead")

    def _begin(self, trial: Trial, worker: Worker) -> None:
        for other in self._trials:
            if other is not trial and other.training == trial.training and other.runs:
                assert not (other.worker and other.worker.trains), f"two workers train {trial.training}"
        worker.begin(trial.assignment)

    def _receive(self, trial: Trial) -> None:
        """Receive the next report of a trial, or notice that its worker has died."""
        worker = trial.worker
        assert worker is not None
        if not worker.alive or worker.exits:
            worker.alive = False
            self._remove(trial, "the actor died")
            return
        update = worker.updates.popleft() if worker.updates else None
        worker.exits = isinstance(update, Record) and ends_process(update)
        if update is not None and self._faults.happens("lost"):
            return
        gives_back = self._dispatcher.report(trial.name, update)
        if not gives_back and self._faults.happens("twice"):
            gives_back = self._dispatcher.report(trial.name, update)
        if gives_back:
            self._remove(trial, None)

    def _remove(self, trial: Trial, error: str | None) -> None:
        self._trials.remove(trial)
        self._dispatcher.release(trial.name, error)
        waiting = [one for one in self._trials if not one.runs]
        if error is None and trial.worker and len(self._idle) <= len(waiting):  # others are dismissed
            trial.worker.assignment = None
            self._idle.append(trial.worker)
