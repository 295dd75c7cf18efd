"""The real dispatcher and the real loop on a cluster that fails: the search decides as if nothing had happened.

A failure names its seed, and `check(seed)` replays it.
"""

import json
import random
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest

from buildup.engine.loop import run_loop
from buildup.engine.replay import Replay, make_replay
from buildup.errors import SearchError
from buildup.execution.dispatcher import FetchReusable
from buildup.execution.simulated import InMemoryWriter
from buildup.graph.network import sketch
from buildup.space.load import load
from buildup.store.run_dir import FINAL, attempt_folder, attempts
from buildup.trials.decision import Decision
from buildup.trials.event import Event
from buildup.trials.history import History
from buildup.trials.outcome import Failure, Reason, Record, Score, record_to_values
from buildup.trials.training import USUAL_CHECKS, Training
from simulated_cluster import FREQUENT, RARE, Clock, DriverKilled, Faults, Outcomes, SimulatedCluster

SPACES = {name: load(name) for name in ("paper", "alternet")}
MEMORY = "/dev/shm" if Path("/dev/shm").is_dir() else None
"""Where files are quick to write and to remove."""
LOST_WHILE_REUSED = (1166, 9389, 10534, 11013)
"""Seeds in which an idle worker is lost that was to take a trial, and the others hold all room that is left."""
MOST_LIVES = 200
"""A driver that was started so many times and still has not ended never will."""


def outcomes(seed: int) -> Outcomes:
    """What each training comes to, however often it is interrupted, and after how many epochs."""

    def outcome(training: Training) -> tuple[Score | Failure, int]:
        chance = random.Random(f"{seed}/{training.id}")
        epochs, score = chance.randint(1, 5), Score(accuracy=chance.gauss(80 + training.candidate.layout.count("M"), 1))
        failures = (
            Failure(reason=Reason.DIVERGED, message=f"the loss of {training.id} became inf"),
            Failure(reason=Reason.BROKEN, message=f"ZeroDivisionError: {training.id} is broken"),
        )
        fails = training.candidate.parent is not None and chance.random() < 0.15
        return chance.choice(failures) if fails else score, epochs

    return outcome


class Undisturbed:
    """One worker that never fails."""

    workers = 1

    def __init__(self, outcome: Outcomes) -> None:
        self._outcome = outcome
        self._requested: Sequence[Training] = ()

    def request(self, trainings: Sequence[Training]) -> None:
        self._requested = trainings

    def next_event(self, timeout: float | None = None) -> Event | None:
        training = self._requested[0]
        return Event(training=training, update=Record(outcome=self._outcome(training)[0], curve=()))

    def close(self) -> None:
        pass


@dataclass
class Study(InMemoryWriter):
    """What a driver has stored outlives it. It may die just before or just after it stores something."""

    faults: Faults
    history: History

    def record(self, history: History, event: Event) -> History:
        return self._stored(partial(super().record, history, event))

    def decide(self, history: History, decision: Decision) -> History:
        return self._stored(partial(super().decide, history, decision))

    def _stored(self, store: Callable[[], History]) -> History:
        self._may_die()
        self.history = store()
        self._may_die()
        return self.history

    def _may_die(self) -> None:
        if self.faults.happens("driver"):
            raise DriverKilled


def library(seed: int, outcome: Outcomes) -> FetchReusable:
    """Another run, which has finished some of the trainings."""

    def fetch(training: Training, folder: Path) -> None:
        found, _ = outcome(training)
        if isinstance(found, Score) and random.Random(f"{seed}/reuse/{training.id}").random() < 0.3:
            own = attempt_folder(folder, 1)
            if not attempts(folder):
                own.mkdir(parents=True)
                (own / FINAL).write_text(json.dumps(record_to_values(Record(outcome=found, curve=()))))

    return fetch


def search(seed: int) -> Replay:
    chance = random.Random(f"{seed}/search")
    return make_replay(
        sketch(chance.choice(["CC|CC", "CC|CCC|CC", "CCCC|CC"])),
        SPACES[chance.choice(["paper", "alternet"])],
        judge=chance.choice(["point", "likely"]),
        seeds=chance.randint(2, 3),
        checks=USUAL_CHECKS if chance.random() < 0.3 else (),
    )


def check(seed: int) -> Counter[str]:
    """Run the search of a seed undisturbed and on the failing cluster of the seed: the faults that happened."""
    outcome, chance, clock = outcomes(seed), random.Random(seed), Clock()
    expected, _ = run_loop(search(seed), Undisturbed(outcome), InMemoryWriter(), History())
    faults = Faults(chance=chance)
    study = Study(faults, History())
    workers, reusable = chance.randint(1, 6), library(seed, outcome) if chance.random() < 0.3 else None
    with tempfile.TemporaryDirectory(dir=MEMORY) as folder, pytest.MonkeyPatch.context() as patched:
        for module in ("dispatcher", "workers"):
            patched.setattr(f"buildup.execution.{module}.time", clock)
        for _ in range(MOST_LIVES):
            cluster = SimulatedCluster(
                folder=Path(folder),
                workers=workers,
                outcome=outcome,
                faults=faults,
                clock=clock,
                fetch_reusable=reusable,
            )
            try:
                view, _ = run_loop(search(seed), cluster, study, study.history)
                break
            except DriverKilled:
                pass
            except SearchError as problem:
                if "lost its worker" not in str(problem):
                    raise
            finally:
                cluster.close()
        else:
            raise AssertionError("the search does not end")
    assert view.decisions == expected.decisions
    assert view.best.id == expected.best.id
    assert view.ended
    return faults.happened


def check_all(seeds: Iterable[int]) -> Counter[str]:
    happened = Counter[str]()
    for seed in seeds:
        try:
            happened += check(seed)
        except Exception as error:
            error.add_note(f"To replay it: check({seed})")
            raise
    return happened


def test_a_search_on_a_failing_cluster_decides_as_an_undisturbed_one() -> None:
    happened = check_all((*range(200), *LOST_WHILE_REUSED))
    assert all(happened[kind] >= 20 for kind in (*FREQUENT, *RARE)), happened


def test_a_search_that_took_lost_workers_for_outcomes_would_be_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Reason, "is_infrastructure", False)
    monkeypatch.setattr("buildup.execution.dispatcher.MAX_WORKER_LOSSES", 1)
    with pytest.raises(AssertionError) as found:
        check_all(range(20))
    assert found.value.__notes__[0].startswith("To replay it: check(")


@pytest.mark.slow
def test_it_does_so_for_ten_thousand_clusters() -> None:
    check_all(range(200, 10_200))
