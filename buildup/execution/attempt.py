"""One attempt at a training: a generator whose last update is a record, and a thread of a worker that runs it."""

import errno
import json
import os
import queue
import socket
import threading
import time
import traceback
from collections.abc import Callable, Generator
from contextlib import closing
from dataclasses import replace
from functools import cache
from pathlib import Path
from tempfile import gettempdir
from typing import Any

from buildup.errors import BuildupError
from buildup.execution.dispatcher import Assignment, ends_process
from buildup.execution.handshake import refusal
from buildup.execution.workers import Leaving, is_host_fault
from buildup.execution.workplace import Mirror, SharedFolder, Workplace
from buildup.files import write_atomic
from buildup.store.run_dir import FAILED, FINAL
from buildup.trials.event import Started, Update
from buildup.trials.outcome import Epoch, Failed, Failure, Outcome, Reason, Record, Score, record_to_values

MIN_IDLE_POLL, MAX_IDLE_POLL = 0.01, 0.2
"""Seconds between two reports of an idle worker: they grow, because work most likely comes soon or late."""


def run_attempt(
    train: Callable[[Any], Generator[Epoch, None, Score]], job: Any, folder: Path, *, raised_before: bool = True
) -> Generator[Epoch | Record, None, None]:
    """Run a training in its attempt folder, turn every error into an outcome, and write the final record.

    All epochs are yielded, also those of earlier attempts, which may not have been recorded. The record comes last.
    An infrastructure failure writes no record, so that a later attempt can resume from the checkpoint. Neither does
    the first exception, which is an outcome only when it repeats.
    """
    started = time.monotonic()
    curve: list[Epoch] = []
    outcome: Outcome
    try:
        with closing(train(job)) as steps:
            while True:
                try:
                    epoch = next(steps)
                except StopIteration as end:
                    outcome = end.value
                    break
                curve.append(epoch)
                yield epoch
    except Failed as failed:
        outcome = Failure(reason=failed.reason, message=failed.message, seconds=time.monotonic() - started)
    except BuildupError as error:
        outcome = Failure(reason=Reason.REFUSED, message=str(error), seconds=time.monotonic() - started)
    except Exception as error:  # noqa: BLE001 - a broken candidate is a result, and this is where it becomes one
        reason = Reason.HOST_FAULT if is_host_fault(error) else Reason.BROKEN
        outcome = Failure(reason=reason, message=traceback.format_exc(), seconds=time.monotonic() - started)
    yield _kept(Record(outcome=outcome, curve=tuple(curve)), folder, raised_before)


def _kept(record: Record, folder: Path, raised_before: bool) -> Record:
    """Write a record into its folder, unless the machine is to blame. A full disk becomes the outcome instead."""
    reason = record.outcome.reason if isinstance(record.outcome, Failure) else None
    if reason and reason.is_infrastructure:
        return record
    name = FAILED if reason is Reason.BROKEN and not raised_before else FINAL
    try:
        write_atomic(folder / name, json.dumps(record_to_values(record)).encode())
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        full = Failure(reason=Reason.DISK_FULL, message=f"{folder} can't be written ({error}). Free some space there.")
        return Record(outcome=full, curve=record.curve)
    return record


@cache
def _functions_to_run() -> "queue.SimpleQueue[Callable[[], None]]":
    """What goes into this queue is run, one after the other, in a thread that does not keep the process alive.

    All trainings of a worker run in this one thread, because cuDNN remembers the fastest kernels for each thread.
    """
    functions: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()

    def run_all() -> None:
        while True:
            functions.get()()

    threading.Thread(target=run_all, name="training", daemon=True).start()
    return functions


class TrainingThread:
    """Runs an attempt in the one thread for trainings and hands out its updates one by one.

    The next epoch does not wait until the driver has received the last one. With short epochs, that wait would take a
    share of the time that grows with the number of workers.
    """

    def __init__(self, assignment: Assignment, node: str) -> None:
        """Start an attempt; `node` is Ray's id of this machine."""
        self._assignment = assignment
        self._node = node
        self._updates: queue.SimpleQueue[Update | Leaving | None] = queue.SimpleQueue()
        self._ended = False
        self._ends_process = self._leaving = False
        self._error: BaseException | None = None
        self._pause = MIN_IDLE_POLL
        self._released, self._finished = threading.Event(), threading.Event()
        _functions_to_run().put(self._run)

    def next_update(self) -> Update | Leaving | None:
        """Wait for the next update; None when the attempt has ended."""
        if self._ends_process:
            # The driver has received the record. The process ends, with all that the failed code left behind in it.
            os._exit(1)
        update = None if self._ended else self._updates.get()
        if update is not None:
            self._ends_process = isinstance(update, Record) and ends_process(update)
            return update
        self._ended = True
        if self._error:
            raise self._error
        if self._leaving:
            os._exit(1)
        time.sleep(self._pause)
        self._pause = min(MAX_IDLE_POLL, 1.2 * self._pause)
        return None

    def leave(self) -> None:
        """End the process after the current epoch, when its state is saved. A signal handler may call this."""
        if self._ended:
            os._exit(1)
        self._leaving = True
        self._updates.put(Leaving())

    def release(self) -> None:
        """Stop the attempt after its current epoch, and wait for that."""
        self._released.set()
        self._finished.wait()

    def _run(self) -> None:
        assignment = self._assignment
        host, pid = socket.gethostname(), os.getpid()
        self._updates.put(Started(attempt=assignment.attempt, host=host, pid=pid, node=self._node))
        place: Workplace = SharedFolder(assignment.folder)
        if assignment.elsewhere:
            # That of this machine, which may lack the one of the driver (TMPDIR).
            assignment = assignment.in_folder(Path(gettempdir()))
            assert assignment.elsewhere is not None
            place = Mirror(assignment.folder, assignment.elsewhere)
        try:
            problem = refusal(assignment.expected)
            if failure := Failure(reason=Reason.REFUSED, message=problem) if problem else place.open():
                self._updates.put(Record(outcome=failure, curve=()))
                return
            attempt = run_attempt(
                assignment.train, assignment.job, assignment.folder, raised_before=assignment.raised_before
            )
            with closing(attempt) as updates:
                while not (self._released.is_set() or self._leaving or place.is_stopped()):
                    if (update := next(updates, None)) is None:
                        break
                    self._updates.put(_handed_over(update, place))
        except BaseException as error:  # noqa: BLE001 - whatever it is, the driver is told of it
            self._error = error
        finally:
            place.close()
            self._updates.put(None)
            self._finished.set()


def _handed_over(update: Epoch | Record, place: Workplace) -> Epoch | Record:
    """Hand the files of an update to the workplace, and return it; a host fault if those of a record can't be kept."""
    if isinstance(update, Epoch):
        place.note()
        return update
    own_disk = isinstance(place, Mirror)
    if own_disk and isinstance(update.outcome, Failure) and update.outcome.reason is Reason.DISK_FULL:
        # Other machines may have the room.
        failure = replace(update.outcome, reason=Reason.HOST_FAULT)
        return Record(outcome=failure, curve=update.curve)
    try:
        place.finish()
    except OSError as problem:
        failure = Failure(reason=Reason.HOST_FAULT, message=f"{socket.gethostname()}: {problem}")
        return Record(outcome=failure, curve=update.curve)
    return update
