"""A training in a worker's thread, in this process and without Ray."""

import os
import shutil
import socket
import threading
import time
from collections.abc import Generator
from dataclasses import replace
from pathlib import Path

import pytest

from buildup.execution import handshake, workplace
from buildup.execution.attempt import TrainingThread, run_attempt
from buildup.execution.dispatcher import Assignment
from buildup.execution.workers import Leaving
from buildup.execution.workplace import STOP
from buildup.models.read import read_network
from buildup.store.run_dir import FAILED, FINAL
from buildup.training.fit import Job, fit
from buildup.training.recipe import load_recipe
from buildup.trials.event import Started, Update
from buildup.trials.outcome import Epoch, Failed, Failure, Outcome, Reason, Record, Score


def counting(job: tuple[int, float]) -> Generator[Epoch, None, Score]:
    for number in range(1, job[0] + 1):
        time.sleep(job[1])
        yield Epoch(number=number, metrics={"accuracy": float(number)})
    return Score(accuracy=50.0)


def diverging(job: tuple[int, float]) -> Generator[Epoch, None, Score]:
    yield Epoch(number=1, metrics={})
    raise Failed(Reason.DIVERGED, "the loss is not a number")


def thread_of(assignment: Assignment) -> TrainingThread:
    return TrainingThread(assignment, "node")


def until_idle(thread: TrainingThread) -> list[Update | Leaving | None]:
    updates = [thread.next_update()]
    while updates[-1] is not None:
        updates.append(thread.next_update())
    return updates


def test_a_thread_reports_its_start_its_epochs_and_its_end(tmp_path: Path) -> None:
    thread = thread_of(Assignment(train=counting, job=(3, 0.0), folder=tmp_path, attempt=1))
    updates = until_idle(thread)
    assert [type(update) for update in updates] == [Started, Epoch, Epoch, Epoch, Record, type(None)]
    assert (tmp_path / FINAL).is_file()
    assert updates[0] == Started(attempt=1, host=socket.gethostname(), pid=os.getpid(), node="node")
    assert thread.next_update() is None


def test_training_goes_on_while_nobody_takes_updates(tmp_path: Path) -> None:
    thread = thread_of(Assignment(train=counting, job=(5, 0.01), folder=tmp_path, attempt=1))
    while not (tmp_path / FINAL).is_file():
        time.sleep(0.01)
    assert len(until_idle(thread)) == 1 + 5 + 1 + 1


def test_a_stopped_training_ends_with_the_epoch_that_it_is_in(tmp_path: Path) -> None:
    thread = thread_of(Assignment(train=counting, job=(1000, 0.01), folder=tmp_path, attempt=1))
    while not isinstance(thread.next_update(), Epoch):
        pass
    (tmp_path / STOP).touch()
    assert len(until_idle(thread)) < 100
    assert not (tmp_path / FINAL).exists()


def test_leaving_ends_a_training_that_runs(tmp_path: Path) -> None:
    thread = thread_of(Assignment(train=counting, job=(1000, 0.01), folder=tmp_path, attempt=1))
    thread.release()
    assert not (tmp_path / FINAL).exists()


def test_a_named_failure_is_a_record(tmp_path: Path) -> None:
    *_, record, _ = until_idle(thread_of(Assignment(train=diverging, job=(1, 0.0), folder=tmp_path, attempt=1)))
    assert isinstance(record, Record)
    assert isinstance(record.outcome, Failure)
    assert record.outcome.reason is Reason.DIVERGED


def test_what_no_record_can_hold_is_raised_to_the_driver(tmp_path: Path) -> None:
    def removing(job: Path) -> Generator[Epoch, None, Score]:
        yield Epoch(number=1, metrics={})
        shutil.rmtree(job)
        return Score(accuracy=1.0)

    folder = tmp_path / "attempt-1"
    folder.mkdir()
    thread = thread_of(Assignment(train=removing, job=folder, folder=folder, attempt=1))
    with pytest.raises(OSError, match="attempt-1"):
        until_idle(thread)


def outcome_of(thread: TrainingThread) -> Outcome:
    *_, record, _ = until_idle(thread)
    assert isinstance(record, Record)
    return record.outcome


def test_a_worker_that_does_not_see_the_folder_of_the_run_says_so_and_trains_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workplace, "FOLDER_PATIENCE", 0.0)
    folder = tmp_path / "missing"
    outcome = outcome_of(thread_of(Assignment(train=counting, job=(1, 0.0), folder=folder, attempt=1)))
    assert isinstance(outcome, Failure)
    assert outcome.reason is Reason.REFUSED
    assert f"{socket.gethostname()} does not see {folder}" in outcome.message
    assert "--run on a path that is shared" in outcome.message


@pytest.mark.parametrize("name", ["buildup", "code of buildup", "torch", "timm"])
def test_a_worker_with_other_software_says_so_and_trains_nothing(tmp_path: Path, name: str) -> None:
    expected = {**handshake.software(), name: "0.0.1"}
    thread = thread_of(Assignment(train=counting, job=(1, 0.0), folder=tmp_path, attempt=1, expected=expected))
    outcome = outcome_of(thread)
    assert isinstance(outcome, Failure)
    assert outcome.reason is Reason.REFUSED
    found = handshake.software()[name]
    assert f"{socket.gethostname()} has {name} {found}, and the driver 0.0.1" in outcome.message
    assert not (tmp_path / FINAL).exists()


def test_a_worker_with_the_software_of_the_driver_trains(tmp_path: Path) -> None:
    expected = handshake.software()
    assert {"buildup", "code of buildup", "torch", "timm", "python"} == expected.keys()
    thread = thread_of(Assignment(train=counting, job=(1, 0.0), folder=tmp_path, attempt=1, expected=expected))
    assert outcome_of(thread) == Score(accuracy=50.0)


def test_an_attempt_has_one_worker(tmp_path: Path) -> None:
    assignment = Assignment(train=counting, job=(1, 0.0), folder=tmp_path, attempt=1)
    assert outcome_of(thread_of(assignment)) == Score(accuracy=50.0)
    with pytest.raises(FileExistsError):
        until_idle(thread_of(assignment))


def raising(job: Exception) -> Generator[Epoch, None, Score]:
    yield Epoch(number=1, metrics={})
    raise job


@pytest.mark.parametrize(
    ("error", "raised_before", "reason", "kept"),
    [
        (KeyError("block"), True, Reason.BROKEN, FINAL),
        (KeyError("block"), False, Reason.BROKEN, FAILED),
        (RuntimeError("CUDA error: uncorrectable ECC error encountered"), True, Reason.HOST_FAULT, None),
        (OSError(5, "Input/output error"), True, Reason.HOST_FAULT, None),
    ],
)
def test_only_an_exception_that_repeats_and_is_not_the_hosts_is_a_final_record(
    tmp_path: Path, error: Exception, raised_before: bool, reason: Reason, kept: str | None
) -> None:
    *_, record = run_attempt(raising, error, tmp_path, raised_before=raised_before)
    assert isinstance(record, Record)
    assert isinstance(record.outcome, Failure)
    assert record.outcome.reason is reason
    assert [path.name for path in tmp_path.iterdir()] == ([kept] if kept else [])


@pytest.mark.slow
def test_a_training_in_a_thread_gives_the_bits_that_it_gives_elsewhere(tmp_path: Path) -> None:
    network = read_network("test_resnet", input_shape=(1, 12, 12), num_classes=10)
    recipe = replace(load_recipe("quick").with_epochs(2), min_steps=1)
    job = Job(network=network, seed=3, dataset="digits", image_size=12, fraction=0.25, recipe=recipe, folder="")
    here = list(fit(replace(job, folder=str(tmp_path / "here"))))
    folder = tmp_path / "thread"
    folder.mkdir()
    assignment = Assignment(train=fit, job=replace(job, folder=str(folder)), folder=folder, attempt=1)
    there = [update for update in until_idle(thread_of(assignment)) if isinstance(update, Epoch)]
    numbers = [[{**one.metrics, "seconds": 0, "throughput": 0} for one in row] for row in (here, there)]
    assert numbers[0] == numbers[1]


def test_all_trainings_of_a_process_run_in_one_thread(tmp_path: Path) -> None:
    seen: list[int] = []

    def noting(job: object) -> Generator[Epoch, None, Score]:
        seen.append(threading.get_ident())
        if job == "diverging":
            raise Failed(Reason.DIVERGED, "the loss is not a number")
        yield Epoch(number=1, metrics={})
        return Score(accuracy=1.0)

    for attempt, asked in enumerate(("whole", "diverging", "whole")):
        folder = tmp_path / f"{attempt}"
        folder.mkdir()
        until_idle(thread_of(Assignment(train=noting, job=asked, folder=folder, attempt=attempt)))
    assert len(seen) == 3
    assert len(set(seen)) == 1
    assert seen[0] != threading.get_ident()
