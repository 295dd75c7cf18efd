"""Attempts that write into a folder of their machine, which is copied to a storage; the workers are threads of ours."""

import logging
import os
import queue
import socket
import threading
import time
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from buildup.errors import RemoteError, RunError
from buildup.execution import workplace
from buildup.execution.attempt import TrainingThread
from buildup.execution.dispatcher import MAX_WORKER_LOSSES, TrialDispatcher
from buildup.execution.workplace import CLAIM, STOP, WORK
from buildup.files import write_atomic
from buildup.graph.network import sketch
from buildup.store import outage
from buildup.store.remote_folder import MARKER, RemoteFolder, mark_remote, remote_url
from buildup.store.run_dir import (
    FAILED,
    FINAL,
    attempt_folder,
    final_record,
    note_remote,
    remote_of,
    set_aside_records,
    trained_weights,
)
from buildup.trials.event import Event, Started, Update
from buildup.trials.outcome import Epoch, Failed, Failure, Reason, Record, Score
from buildup.trials.training import CHECKPOINT, WEIGHTS, Candidate, Training

TRAINING = Training(candidate=Candidate(network=sketch("CC|CC")), seed=0)
SCORE = Score(accuracy=50.0)
LAST = 5


@dataclass(frozen=True, kw_only=True)
class Job:
    """What a training gets, in the place of ours."""

    folder: str
    resume_from: tuple[str, ...]
    seconds: float


def train(job: Job) -> Generator[Epoch, None, Score]:
    """Goes on after the newest state, keeps one after each epoch, and leaves weights in its place."""
    folder = Path(job.folder)
    states = [Path(path) / CHECKPOINT for path in job.resume_from]
    first = next((int(path.read_text()) for path in states if path.is_file()), 0)
    for number in range(1, LAST + 1):
        if number > first:
            time.sleep(job.seconds)
            write_atomic(folder / CHECKPOINT, str(number).encode())
        yield Epoch(number=number, metrics={"trained": float(number > first)})
    write_atomic(folder / WEIGHTS, b"weights")
    (folder / CHECKPOINT).unlink(missing_ok=True)
    return SCORE


class Search:
    """A dispatcher with a storage, and workers that are threads."""

    def __init__(self, folder: Path, storage: Path, seconds: float = 0.05) -> None:
        self.trainings = folder
        self.remote = RemoteFolder(remote_url(str(storage))) / "demo"
        self._seconds = seconds
        mark_remote(self.remote)
        self._restart()

    def _restart(self) -> None:
        """As after the death of the driver."""
        self.dispatcher = TrialDispatcher(
            folder=self.trainings, train=train, job=self._job, workers=1, remote=self.remote
        )
        self.dispatcher.request([TRAINING])

    def _job(self, training: Training, folder: Path, earlier: Sequence[Path]) -> Job:
        return Job(folder=str(folder), resume_from=tuple(map(str, earlier)), seconds=self._seconds)

    def start(self) -> TrainingThread:
        assignment = self.dispatcher.next_assignment("slot")
        assert assignment is not None
        return TrainingThread(assignment, "node")

    def there(self, number: int = 1) -> dict[str, int]:
        """The files of an attempt in the storage."""
        remote = remote_of(attempt_folder(self.trainings / TRAINING.id, number))
        assert remote is not None
        return remote.sizes()


@pytest.fixture
def search(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Search:
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr("buildup.execution.attempt.gettempdir", lambda: str(tmp_path / "tmp"))
    return Search(tmp_path / "trainings", tmp_path / "storage")


def until_end(thread: TrainingThread) -> list[Update]:
    """All updates. The process of a thread would end when it is asked for more after a fault."""
    updates: list[Update] = []
    while (update := thread.next_update()) is not None:
        assert isinstance(update, Started | Epoch | Record)
        updates.append(update)
        if isinstance(update, Record):
            thread.release()
            break
    return updates


def until_epoch(thread: TrainingThread, number: int) -> None:
    while not (isinstance(update := thread.next_update(), Epoch) and update.number == number):
        pass


def wait_until(what: Any) -> None:
    end = time.monotonic() + 20
    while not what():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_what_an_attempt_leaves_is_in_the_storage_and_comes_when_asked_for(search: Search, tmp_path: Path) -> None:
    ended = until_end(search.start())[-1]
    assert search.there().keys() == {CLAIM, FINAL, WEIGHTS}
    folder = search.trainings / TRAINING.id
    assert {path.name for path in (folder / "attempt-1").iterdir()} == {"elsewhere"}
    assert final_record(folder) == (1, ended)
    weights = trained_weights(folder)
    assert weights is not None
    assert weights.read_bytes() == b"weights"
    assert weights.is_relative_to(folder)
    assert list((tmp_path / "tmp").iterdir()) == []


def test_a_state_is_in_the_storage_while_the_training_goes_on(search: Search, tmp_path: Path) -> None:
    thread = search.start()
    until_epoch(thread, 1)
    assert len(list((tmp_path / "tmp").glob(f"{WORK}*/*/attempt-1"))) == 1
    wait_until(lambda: CHECKPOINT in search.there())
    assert FINAL not in search.there()
    until_end(thread)
    assert CHECKPOINT not in search.there()


def test_the_next_attempt_goes_on_from_the_state_in_the_storage_on_whatever_machine(search: Search) -> None:
    thread = search.start()
    until_epoch(thread, 3)
    thread.release()
    search._restart()
    updates = until_end(search.start())
    trained = [update.metrics["trained"] for update in updates if isinstance(update, Epoch)]
    assert trained[:3] == [0, 0, 0]
    assert isinstance(updates[-1], Record)
    assert updates[-1].outcome == SCORE
    assert WEIGHTS in search.there(2)


def test_a_record_that_only_reached_the_storage_ends_the_training_of_a_new_driver(search: Search) -> None:
    until_end(search.start())
    search._restart()
    assert search.dispatcher.next_assignment("slot") is None
    update = search.dispatcher.events.get_nowait().update
    assert isinstance(update, Record)
    assert update.outcome == SCORE


def test_a_record_that_was_set_aside_does_not_come_back(search: Search) -> None:
    until_end(search.start())
    folder = search.trainings / TRAINING.id
    set_aside_records(folder)
    assert (folder / "attempt-1" / FAILED).is_file()
    assert final_record(folder) is None
    assert trained_weights(folder) is not None


def test_an_attempt_stops_by_a_sign_in_the_storage(search: Search, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workplace, "STOP_INTERVAL", 0.05)
    search._seconds = 1.0
    thread = search.start()
    for update in (thread.next_update(), thread.next_update()):
        assert isinstance(update, Started | Epoch)
        search.dispatcher.report("slot", update)
    search.dispatcher.request([])
    search.dispatcher.report("slot", Epoch(number=2, metrics={}))
    wait_until(lambda: STOP in search.there())
    updates = until_end(thread)
    assert len(updates) < LAST - 1
    assert FINAL not in search.there()
    assert search.there()[CHECKPOINT]


def test_a_training_goes_on_while_the_storage_hangs(search: Search, monkeypatch: pytest.MonkeyPatch) -> None:
    answered, asked, unanswered = threading.Event(), list[float](), list[float]()
    has, put = RemoteFolder.has, RemoteFolder.put

    def hanging(call: Any) -> Any:
        def late(*arguments: Any) -> Any:
            asked.append(time.monotonic())
            if not answered.wait(5):
                unanswered.append(asked[-1])
            return call(*arguments)

        return late

    monkeypatch.setattr(workplace, "STOP_INTERVAL", 0.01)
    thread = search.start()
    until_epoch(thread, 1)
    monkeypatch.setattr(RemoteFolder, "has", hanging(has))
    monkeypatch.setattr(RemoteFolder, "put", hanging(put))
    until_epoch(thread, LAST)
    assert asked
    assert not unanswered
    answered.set()
    assert isinstance(record := until_end(thread)[-1], Record)
    assert record.outcome == SCORE
    assert FINAL in search.there()


def test_a_second_process_does_not_train_an_attempt(search: Search) -> None:
    assignment = search.dispatcher.next_assignment("slot")
    assert assignment is not None
    until_end(TrainingThread(assignment, "node"))
    with pytest.raises(FileExistsError, match="another process"):
        until_end(TrainingThread(assignment, "node"))


def test_a_storage_that_cant_be_reached_is_a_fault_of_the_machine(search: Search, tmp_path: Path) -> None:
    (tmp_path / "storage" / "demo" / TRAINING.id).write_text("no folder")
    [_, record] = until_end(search.start())
    assert isinstance(record, Record)
    assert isinstance(record.outcome, Failure)
    assert record.outcome.reason is Reason.HOST_FAULT
    assert record.outcome.message.startswith(f"{socket.gethostname()}: file://")
    assert "it can't be written" in record.outcome.message


def test_a_full_disk_of_one_machine_is_a_fault_of_it(search: Search, monkeypatch: pytest.MonkeyPatch) -> None:
    full = Failed(Reason.DISK_FULL, "there is no room")

    def train_without_room(_: Job) -> Generator[Epoch, None, Score]:
        yield Epoch(number=1, metrics={})
        raise full

    assignment = search.dispatcher.next_assignment("slot")
    assert assignment is not None
    *_, record = until_end(TrainingThread(replace(assignment, train=train_without_room), "node"))
    assert isinstance(record, Record)
    assert isinstance(record.outcome, Failure)
    assert (record.outcome.reason, record.outcome.message) == (Reason.HOST_FAULT, full.message)


def test_a_storage_that_is_not_mounted_is_not_taken_for_one_without_records(search: Search) -> None:
    until_end(search.start())
    search.remote.remove(MARKER)
    assert final_record(search.trainings / TRAINING.id)
    folder = attempt_folder(search.trainings / "other", 1)
    folder.mkdir(parents=True)
    note_remote(folder, search.remote / "other" / folder.name)
    with pytest.raises(RunError, match=r"/demo: nothing of this run is there\. Is it mounted here"):
        final_record(search.trainings / "other")
    assignment = search.dispatcher.next_assignment("slot")
    assert assignment is None
    search.trainings = search.trainings.parent / "new"
    mark_remote(search.remote)
    search._restart()
    assignment = search.dispatcher.next_assignment("slot")
    assert assignment is not None
    search.remote.remove(MARKER)
    [_, record] = until_end(TrainingThread(assignment, "node"))
    assert isinstance(record, Record)
    assert isinstance(record.outcome, Failure)
    assert record.outcome.reason is Reason.HOST_FAULT


@pytest.mark.parametrize("lasts", [False, True])
def test_a_record_waits_for_a_storage_that_does_not_answer(
    search: Search, monkeypatch: pytest.MonkeyPatch, lasts: bool
) -> None:
    put, failed = RemoteFolder.put, list[Path]()

    def failing(self: RemoteFolder, path: Path) -> None:
        if path.name == FINAL and (lasts or len(failed) < 3):
            failed.append(path)
            raise RemoteError("it can't be written: no route.")
        put(self, path)

    monkeypatch.setattr(RemoteFolder, "put", failing)
    monkeypatch.setattr(outage, "FIRST_PAUSE", 0.01)
    monkeypatch.setattr(outage, "LIMIT", 0.1 if lasts else 20.0)
    record = until_end(search.start())[-1]
    assert isinstance(record, Record)
    assert len(failed) >= 3
    if lasts:
        assert isinstance(record.outcome, Failure)
        assert record.outcome.reason is Reason.HOST_FAULT
        assert FINAL not in search.there()
    else:
        assert record.outcome == SCORE
        assert FINAL in search.there()


def test_a_driver_that_cant_read_the_storage_says_so_and_repeats_nothing(
    search: Search, monkeypatch: pytest.MonkeyPatch
) -> None:
    until_end(search.start())

    def get(self: RemoteFolder, name: str, to: Path) -> bool:
        raise RemoteError(f"{self}: it can't be read: no route.")

    monkeypatch.setattr(RemoteFolder, "get", get)
    with pytest.raises(RunError, match=r"^file://.*/demo/.*/attempt-1: it can't be read: no route\.$"):
        final_record(search.trainings / TRAINING.id)
    monkeypatch.setattr(outage, "LIMIT", 0.05)
    search._restart()
    assert search.dispatcher.next_assignment("slot") is None
    assert search.dispatcher.events.empty()
    time.sleep(0.1)
    assert search.dispatcher.next_assignment("slot") is None
    update = search.dispatcher.events.get_nowait().update
    assert isinstance(update, Record)
    assert isinstance(update.outcome, Failure)
    assert update.outcome.reason.is_infrastructure


class Disk:
    """The storage of a search, which can be away: a file is in its place, or nothing."""

    def __init__(self, search: Search) -> None:
        self._place = Path(search.remote.parent.url.removeprefix("file://"))
        self._aside = self._place.with_name("aside")

    def leave(self, *, replaced: bool = True) -> None:
        self._place.rename(self._aside)
        if replaced:
            self._place.touch()

    def come_back(self) -> None:
        if self._place.is_file():
            self._place.unlink()
        self._aside.rename(self._place)


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """The storage is looked at in short intervals."""
    caplog.set_level(logging.INFO, "buildup")
    monkeypatch.setattr(outage, "FIRST_PAUSE", 0.01)
    monkeypatch.setattr("buildup.execution.storage_watch.INTERVAL", 0.0)


@pytest.mark.usefixtures("hasty")
@pytest.mark.parametrize("replaced", [True, False])
def test_a_driver_waits_for_a_storage_that_is_away_and_says_so(
    search: Search, caplog: pytest.LogCaptureFixture, replaced: bool
) -> None:
    until_end(search.start())
    disk = Disk(search)
    disk.leave(replaced=replaced)
    search._restart()
    for _ in range(5):
        assert search.dispatcher.next_assignment("slot") is None
        time.sleep(0.02)
    assert search.dispatcher.events.empty()
    assert len(caplog.messages) == 1
    assert f"{search.remote} does not answer (nothing of this run is there." in caplog.text
    assert "Trainings go on; it is tried again for 15 minutes." in caplog.text
    disk.come_back()
    wait_until(lambda: search.dispatcher.next_assignment("slot") is not None or not search.dispatcher.events.empty())
    update = search.dispatcher.events.get_nowait().update
    assert isinstance(update, Record)
    assert update.outcome == SCORE
    assert f"{search.remote} answers again after" in caplog.messages[-1]


@pytest.mark.usefixtures("hasty")
def test_a_training_goes_on_through_an_outage_and_no_worker_is_blamed(
    search: Search, caplog: pytest.LogCaptureFixture
) -> None:
    thread, disk = search.start(), Disk(search)
    until_epoch(thread, 2)
    disk.leave(replaced=False)
    until_epoch(thread, LAST)
    fault = Record(outcome=Failure(reason=Reason.HOST_FAULT, message="it can't be read"), curve=())
    for _ in range(MAX_WORKER_LOSSES + 1):
        search.dispatcher.report("slot", Started(attempt=1, host="here", pid=1))
        search.dispatcher.report("slot", fault)
    search.dispatcher.slots["slot"].heard -= 1000
    assert search.dispatcher.watch(stall_timeout=1.0) == []
    assert not search.remote.has(MARKER), "the place of the storage was written to"
    assert not any(isinstance(event.update, Record) for event in emptied(search.dispatcher.events))
    disk.come_back()
    [record] = until_end(thread)
    assert isinstance(record, Record)
    assert record.outcome == SCORE
    assert search.there().keys() == {CLAIM, FINAL, WEIGHTS}
    wait_until(lambda: search.dispatcher.watch() == [] and "answers again" in caplog.text)


@pytest.mark.usefixtures("hasty")
def test_a_storage_that_hangs_keeps_the_driver_from_nothing_but_new_trainings(
    search: Search, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    answered = threading.Event()
    monkeypatch.setattr(RemoteFolder, "check_marked", lambda self: answered.wait())
    monkeypatch.setattr("buildup.execution.storage_watch.TIMEOUT", 0.05)
    wait_until(lambda: search.dispatcher.watch() == [] and "does not answer (no answer for 0.05 s)" in caplog.text)
    assert search.dispatcher.next_assignment("slot") is None
    answered.set()
    wait_until(lambda: search.dispatcher.next_assignment("slot") is not None)


@pytest.mark.usefixtures("hasty")
def test_a_storage_is_asked_anew_where_an_answer_never_comes(
    search: Search, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    answered, asked, check = threading.Event(), list[RemoteFolder](), RemoteFolder.check_marked

    def first_hangs(self: RemoteFolder) -> None:
        asked.append(self)
        if len(asked) == 1:
            answered.wait(60)
        check(self)

    monkeypatch.setattr(RemoteFolder, "check_marked", first_hangs)
    monkeypatch.setattr("buildup.execution.storage_watch.TIMEOUT", 0.2)
    wait_until(lambda: search.dispatcher.watch() == [] and "does not answer (no answer for 0.2 s)" in caplog.text)
    wait_until(lambda: search.dispatcher.watch() == [] and "answers again" in caplog.text)
    answered.set()
    assert search.dispatcher.next_assignment("slot") is not None


@pytest.mark.usefixtures("hasty")
def test_a_record_that_is_not_read_in_time_is_adopted_later(
    search: Search, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    until_end(search.start())
    answered, late, get = threading.Event(), list[str](), RemoteFolder.get

    def hanging(self: RemoteFolder, name: str, to: Path) -> bool:
        if not answered.wait(5):
            late.append(name)
        return get(self, name, to)

    monkeypatch.setattr(RemoteFolder, "get", hanging)
    monkeypatch.setattr("buildup.execution.storage_watch.TIMEOUT", 0.2)
    search._restart()
    assert not late
    assert search.dispatcher.next_assignment("slot") is None
    assert search.dispatcher.events.empty()
    assert "does not answer (no answer for 0.2 s)" in caplog.text
    answered.set()
    wait_until(lambda: search.dispatcher.next_assignment("slot") is not None or not search.dispatcher.events.empty())
    update = search.dispatcher.events.get_nowait().update
    assert isinstance(update, Record)
    assert update.outcome == SCORE


def emptied(events: "queue.SimpleQueue[Event]") -> Iterator[Event]:
    while not events.empty():
        yield events.get_nowait()


@pytest.mark.parametrize(
    "mark", [b"", b"\xff\x00", b"s3:", b"file:///a\x00b", b"https://a", b"s3://[", b"file:///%zz/x"]
)
def test_a_damaged_mark_is_a_sentence(tmp_path: Path, mark: bytes) -> None:
    folder = attempt_folder(tmp_path, 1)
    folder.mkdir()
    (folder / "elsewhere").write_bytes(mark)
    with pytest.raises(RunError):
        final_record(tmp_path)


def test_folders_of_killed_processes_are_removed_from_their_machine(search: Search, tmp_path: Path) -> None:
    def left(name: str, owner: str) -> Path:
        folder = tmp_path / "tmp" / f"{WORK}{name}" / "ab-s0.1" / "attempt-1"
        folder.mkdir(parents=True)
        (folder / CLAIM).write_text(owner)
        return folder

    dead = next(pid for pid in range(2**22, 2, -1) if not Path(f"/proc/{pid}").exists())
    gone = left("dead", f"{dead} on {socket.gethostname()}")
    kept = [
        left("alive", f"{os.getpid()} on {socket.gethostname()}"),
        left("far", f"{dead} on another"),
        left("odd", ""),
    ]
    until_end(search.start())
    assert not gone.exists()
    assert all(folder.exists() for folder in kept)


def test_an_attempt_without_a_storage_has_no_mark(tmp_path: Path) -> None:
    dispatcher = TrialDispatcher(folder=tmp_path, train=train, job=lambda *_: None, workers=1)
    dispatcher.request([TRAINING])
    assignment = dispatcher.next_assignment("slot")
    assert assignment is not None
    assert assignment.elsewhere is None
    assert assignment.folder == tmp_path / TRAINING.id / "attempt-1"
    assert list(assignment.folder.iterdir()) == []
