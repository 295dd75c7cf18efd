"""What becomes of trainings whose workers die, hang or fail, with workers that are only played."""

import json
import logging
from collections.abc import Callable, Iterator, Set
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors import SafetensorError

from buildup.execution.dispatcher import MAX_WORKER_LOSSES, Assignment, TrialDispatcher, ends_process
from buildup.execution.workers import (
    FIRST_PATIENCE,
    LEAST_PATIENCE,
    LONGEST_WAIT,
    MAX_HOST_FAULTS,
    Hosts,
    Leaving,
    is_host_fault,
)
from buildup.files import write_atomic
from buildup.graph.network import sketch
from buildup.store.run_dir import FINAL
from buildup.trials.event import Started
from buildup.trials.outcome import Epoch, Failure, Reason, Record, Score, record_to_values
from buildup.trials.training import Candidate, Training

TRAINING = Training(candidate=Candidate(network=sketch("CC|CC")), seed=0)


def lives(folder: Path, reached: list[int]) -> list[Reason]:
    """Workers take a training up one after the other, each as far as an epoch, and die; with what it came to."""

    def train(job: object) -> Any:
        raise AssertionError("nothing is trained here")

    dispatcher = TrialDispatcher(folder=folder, train=train, job=lambda *_: None, workers=1)
    dispatcher.request([TRAINING])
    ends: list[Reason] = []
    for life, last in enumerate(reached):
        if (assignment := dispatcher.next_assignment(str(life))) is None:
            break
        dispatcher.report(str(life), Started(attempt=assignment.attempt, host="here", pid=life))
        for number in range(1, last + 1):
            dispatcher.report(str(life), Epoch(number=number, metrics={}))
        dispatcher.release(str(life), "it died")
    while not dispatcher.events.empty():
        update = dispatcher.events.get().update
        if isinstance(update, Record):
            assert isinstance(update.outcome, Failure)
            ends.append(update.outcome.reason)
    return ends


@pytest.mark.parametrize("epochs", [0, 1, 4])
def test_a_training_is_lost_when_its_worker_dies_three_times_at_one_epoch(tmp_path: Path, epochs: int) -> None:
    assert lives(tmp_path / "early", [epochs] * (MAX_WORKER_LOSSES - 1)) == []
    assert lives(tmp_path / "late", [epochs] * MAX_WORKER_LOSSES) == [Reason.LOST]


def test_a_training_that_gets_further_each_time_is_never_lost(tmp_path: Path) -> None:
    assert lives(tmp_path, [1, 2, 2, 3, 4, 5, 5, 6, 7]) == []


@given(st.lists(st.integers(0, 4), max_size=12))
def test_a_training_without_end_is_lost_at_last(tmp_path_factory: pytest.TempPathFactory, reached: list[int]) -> None:
    assert lives(tmp_path_factory.mktemp("lives"), [*reached, *[0] * MAX_WORKER_LOSSES]) == [Reason.LOST]


BROKEN = Failure(reason=Reason.BROKEN, message="Traceback\nZeroDivisionError: a broken block")
FAULT = Failure(reason=Reason.HOST_FAULT, message="Traceback\nRuntimeError: CUDA error: uncorrectable ECC error")
SCORE = Score(accuracy=50.0)


def never(job: object) -> Any:
    raise AssertionError("nothing is trained here")


class Cluster:
    """A dispatcher whose workers are placed on hosts, one on each, and say how a training ended."""

    def __init__(self, folder: Path, hosts: Set[str] = frozenset({"a", "b"})) -> None:
        self.trained: list[tuple[str, str]] = []
        self.dispatcher = TrialDispatcher(
            folder=folder,
            train=never,
            job=lambda *_: None,
            workers=len(hosts),
            hosts=Hosts(lambda without: len(hosts - without)),
        )
        self._hosts = hosts
        self._running: dict[str, tuple[str, Training]] = {}
        self._idle: dict[str, str] = {}
        self._reused: list[str] = []

    def run(self, trainings: list[Training], outcome: Callable[[str, Training], Score | Failure]) -> None:
        """Let the workers train, and end what began first, until nothing is left to do."""
        self.dispatcher.request(trainings)
        for number in range(100):
            while assignment := self.dispatcher.next_assignment(f"{number}-{len(self._running)}"):
                self._start(f"{number}-{len(self._running)}", assignment)
            if self._running:
                self._end(next(iter(self._running)), outcome)
            elif not any(self._offer(name, None) for name in list(self._idle)):
                return

    def _start(self, name: str, assignment: Assignment) -> None:
        taken = {host for host, _ in self._running.values()} | set(self._idle.values())
        host = self._reused.pop() if self._reused else min(self._hosts - taken - assignment.avoided)
        training = self.dispatcher.slots[name].training
        self._running[name] = host, training
        self.trained.append((training.id, host))
        self.dispatcher.report(name, Started(attempt=assignment.attempt, host=host, pid=1, node=host))

    def _end(self, name: str, outcome: Callable[[str, Training], Score | Failure]) -> None:
        host, training = self._running.pop(name)
        ended = outcome(host, training)
        if isinstance(ended, Score):
            self._idle[name] = host
            self._offer(name, Record(outcome=ended, curve=()))
        else:
            assert not self.dispatcher.report(name, Record(outcome=ended, curve=()))
            self.dispatcher.release(name, "it ended itself")

    def _offer(self, name: str, update: Record | None) -> bool:
        """Report a worker that has ended its training; whether it gets another one."""
        if again := self.dispatcher.report(name, update):
            self.dispatcher.release(name, None)
            self._reused.append(self._idle.pop(name))
        return again

    def outcomes(self) -> list[Score | Failure]:
        found: list[Score | Failure] = []
        while not self.dispatcher.events.empty():
            update = self.dispatcher.events.get().update
            if isinstance(update, Record):
                found.append(update.outcome)
        return found


def trainings(count: int) -> list[Training]:
    return [Training(candidate=TRAINING.candidate, seed=seed) for seed in range(count)]


def test_an_exception_counts_only_when_it_comes_again_elsewhere(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path)
    cluster.run([TRAINING], lambda host, _: BROKEN)
    assert cluster.trained == [(TRAINING.id, "a"), (TRAINING.id, "b")]
    assert cluster.outcomes() == [BROKEN]


def test_an_exception_on_the_only_host_is_tried_again_there(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path, frozenset({"a"}))
    answers: Iterator[Score | Failure] = iter([BROKEN, SCORE])
    cluster.run([TRAINING], lambda *_: next(answers))
    assert cluster.outcomes() == [SCORE]


def test_the_first_attempt_after_an_exception_is_told_that_the_next_one_counts(tmp_path: Path) -> None:
    dispatcher = Cluster(tmp_path, frozenset({"a"})).dispatcher
    dispatcher.request([TRAINING])
    first = dispatcher.next_assignment("0")
    dispatcher.report("0", Started(attempt=1, host="a", pid=1, node="a"))
    dispatcher.report("0", Record(outcome=BROKEN, curve=()))
    dispatcher.release("0", "it ended itself")
    second = dispatcher.next_assignment("1")
    assert first
    assert second
    assert (first.raised_before, second.raised_before) == (False, True)


def test_a_process_ends_after_what_may_have_damaged_it() -> None:
    ending = {reason for reason in Reason if ends_process(Record(outcome=Failure(reason=reason, message=""), curve=()))}
    assert ending == {Reason.BROKEN, Reason.HOST_FAULT, Reason.OUT_OF_MEMORY}
    assert not ends_process(Record(outcome=SCORE, curve=()))


def test_a_host_that_fails_costs_no_training_and_gets_no_more_of_them(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cluster = Cluster(tmp_path)
    cluster.run(trainings(8), lambda host, _: FAULT if host == "a" else SCORE)
    assert cluster.outcomes() == [SCORE] * 8
    assert sum(host == "a" for _, host in cluster.trained) == MAX_HOST_FAULTS
    assert caplog.text.count("a failed 3 times and gets no more trainings") == 1


def test_a_training_that_fails_by_its_hosts_three_times_stops_the_search(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path, frozenset({"a"}))
    cluster.run([TRAINING], lambda *_: FAULT)
    [outcome] = cluster.outcomes()
    assert isinstance(outcome, Failure)
    assert outcome.reason is Reason.HOST_FAULT
    assert outcome.reason.is_infrastructure
    assert "on a: RuntimeError: CUDA error: uncorrectable ECC error" in outcome.message


def test_a_process_of_a_training_that_dies_counts_as_its_worker_does(tmp_path: Path) -> None:
    lost = Failure(reason=Reason.LOST, message="process 2 of 2 of the training (pid 7) ended by SIGKILL")
    dispatcher = TrialDispatcher(folder=tmp_path, train=never, job=lambda *_: None, workers=1)
    dispatcher.request([TRAINING])
    for life in range(1, MAX_WORKER_LOSSES + 1):
        assert dispatcher.next_assignment(str(life))
        dispatcher.report(str(life), Started(attempt=life, host="a", pid=1, node="a"))
        taken_up = dispatcher.report(str(life), Record(outcome=lost, curve=()))
        assert taken_up == (life < MAX_WORKER_LOSSES)  # by the same worker, which is alive
        dispatcher.release(str(life), None)
    events = [dispatcher.events.get().update for _ in range(MAX_WORKER_LOSSES + 1)]
    assert isinstance(events[-1], Record)
    assert isinstance(events[-1].outcome, Failure)
    assert "lost its worker 3 times" in events[-1].outcome.message
    assert "Last, process 2 of 2 of the training (pid 7) ended by SIGKILL." in events[-1].outcome.message


def test_a_worker_that_is_asked_to_end_is_held_against_nobody(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path, frozenset({"a"}))
    cluster.dispatcher.request([TRAINING])
    for life in map(str, range(2 * MAX_WORKER_LOSSES)):
        assert cluster.dispatcher.next_assignment(life)
        cluster.dispatcher.report(life, Started(attempt=1, host="a", pid=1, node="a"))
        assert not cluster.dispatcher.report(life, Leaving())
        cluster.dispatcher.release(life, "it ended itself")
    cluster.run([TRAINING], lambda *_: SCORE)
    assert cluster.outcomes() == [SCORE]


@pytest.mark.parametrize(
    ("error", "is_the_hosts"),
    [
        (RuntimeError("CUDA error: uncorrectable ECC error encountered"), True),
        (RuntimeError("CUDA error: unspecified launch failure"), True),
        (RuntimeError("No CUDA GPUs are available"), True),
        (RuntimeError("CUDA error: all CUDA-capable devices are busy or unavailable"), True),
        (RuntimeError("cuDNN error: CUDNN_STATUS_NOT_INITIALIZED"), True),
        (RuntimeError("NCCL error in: ProcessGroupNCCL.cpp, unhandled system error"), True),
        (RuntimeError("CUDA error: the launch timed out and was terminated"), True),
        (RuntimeError("DataLoader worker (pid 17) is killed by signal: Bus error."), True),
        (SafetensorError("Error while serializing: I/O error: Input/output error (os error 5)"), True),
        (SafetensorError("Error while deserializing header: header too large"), False),
        (OSError(116, "Stale file handle"), True),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
        (RuntimeError("CUDA error: an illegal memory access was encountered"), False),
        (KeyError("attention"), False),
    ],
)
def test_what_belongs_to_a_host(error: Exception, is_the_hosts: bool) -> None:
    assert is_host_fault(error) is is_the_hosts


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time, which only the test lets pass."""
    now = [1000.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    return now


def silent_lines(caplog: pytest.LogCaptureFixture, word: str = "silent") -> list[str]:
    return [line for line in caplog.messages if line.startswith(word)]


def test_a_silent_worker_is_told_once_and_again_when_its_silence_has_doubled(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, clock: list[float]
) -> None:
    caplog.set_level(logging.WARNING)
    dispatcher = TrialDispatcher(folder=tmp_path, train=never, job=lambda *_: None, workers=1)
    dispatcher.request([TRAINING])
    dispatcher.next_assignment("0")
    dispatcher.report("0", Started(attempt=1, host="here", pid=7))
    clock[0] += FIRST_PATIENCE - 1
    dispatcher.watch()
    assert silent_lines(caplog) == []
    dispatcher.report("0", Epoch(number=1, metrics={"seconds": 10.0}))
    dispatcher.report("0", Epoch(number=2, metrics={"seconds": 20.0}))
    dispatcher.slots["0"].longest = 20.0  # rather than the long wait of above
    for second in range(1, 1000):
        clock[0] += 1
        assert dispatcher.watch() == []
        assert len(silent_lines(caplog)) == (second >= 200) + (second >= 400) + (second >= 800)
    assert "here (pid 7) has reported nothing of the base  seed 0 for 200 s" in silent_lines(caplog)[0]
    dispatcher.report("0", Epoch(number=3, metrics={"seconds": 1000.0}))
    clock[0] += 1000
    dispatcher.watch()
    assert len(silent_lines(caplog)) == 3


def test_a_stalled_worker_is_named_to_be_ended_once_in_a_timeout(tmp_path: Path, clock: list[float]) -> None:
    dispatcher = TrialDispatcher(folder=tmp_path, train=never, job=lambda *_: None, workers=1)
    dispatcher.request([TRAINING])
    dispatcher.next_assignment("0")
    started = Started(attempt=1, host="here", pid=7)
    dispatcher.report("0", started)
    ended = []
    for _ in range(100):
        clock[0] += 1
        ended += dispatcher.watch(40.0)
    assert ended == [started] * 2
    assert LEAST_PATIENCE > 40


def test_that_no_worker_starts_is_said_and_not_while_one_trains(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, clock: list[float]
) -> None:
    dispatcher = TrialDispatcher(folder=tmp_path, train=never, job=lambda *_: None, workers=1)
    dispatcher.request([TRAINING])
    dispatcher.next_assignment("0")
    clock[0] += LONGEST_WAIT
    dispatcher.watch()
    dispatcher.watch()
    assert len(silent_lines(caplog, "waiting")) == 1
    dispatcher.report("0", Started(attempt=1, host="here", pid=7))
    clock[0] += 2 * LONGEST_WAIT
    dispatcher.watch()
    assert len(silent_lines(caplog, "waiting")) == 1


def test_the_death_of_a_worker_is_told_with_its_cause_and_what_is_next(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    dispatcher = TrialDispatcher(folder=tmp_path, train=never, job=lambda *_: None, workers=1)
    dispatcher.request([TRAINING])
    dispatcher.next_assignment("0")
    dispatcher.report("0", Started(attempt=1, host="here", pid=7))
    dispatcher.report("0", Epoch(number=1, metrics={}))
    dispatcher.release("0", "ActorDiedError: it died.\n Worker exit detail: Connection lost.\nmore")
    assert caplog.messages == [
        "worker     here (pid 7) died: Connection lost.; the base  seed 0 goes on from its last checkpoint, "
        "after epoch 1 at most"
    ]


def test_what_happens_is_counted_once(tmp_path: Path, clock: list[float]) -> None:
    counted: list[tuple[str, ...]] = []
    dispatcher = TrialDispatcher(
        folder=tmp_path, train=never, job=lambda *_: None, workers=1, count=lambda *what: counted.append(what)
    )
    dispatcher.request([TRAINING])
    for attempt in (1, 2):
        dispatcher.next_assignment(f"{attempt}")
        dispatcher.report(f"{attempt}", Started(attempt=attempt, host="here", pid=7))
        dispatcher.report(f"{attempt}", Epoch(number=1, metrics={}))
        if attempt == 1:
            clock[0] += 100
            dispatcher.watch(90.0)
            dispatcher.release("1", "it was ended")
    dispatcher.report("2", ended := Record(outcome=SCORE, curve=()))
    expected = ["trainings_started", "epochs", "stalls", "retries", "trainings_started", "trainings_finished"]
    assert [name for name, *_ in counted] == expected
    write_atomic(tmp_path / TRAINING.id / "attempt-2" / FINAL, json.dumps(record_to_values(ended)).encode())
    later = TrialDispatcher(folder=tmp_path, train=never, job=lambda *_: None, workers=1, count=pytest.fail)
    later.request([TRAINING])
    assert later.events.get_nowait().update == ended
