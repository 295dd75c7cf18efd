"""What a worker does with an order: it trains in a thread, and tells one report at a time.

The next epoch does not wait until the driver has taken the last one in: where epochs are short, that would be a part of
their time that grows with the number of workers. A training that is no longer needed ends with the epoch it is in.
"""

import os
import queue
import socket
import threading
import time
from contextlib import closing

from buildup.execution.attempt import run_attempt
from buildup.execution.dispatcher import STOP, Assignment, WorkerIdle, WorkerReport, WorkerStarted, is_broken
from buildup.trials.outcome import Record

MIN_IDLE_POLL, MAX_IDLE_POLL = 0.01, 0.2
"""Seconds between two questions of an idle worker for work: at first, when it is likely to come, and at last."""


class TrainingThread:
    """One order being worked off."""

    def __init__(self, assignment: Assignment) -> None:
        self._assignment = assignment
        self._reports: queue.SimpleQueue[WorkerReport | None] = queue.SimpleQueue()
        self._over = False
        self._broken = False
        self._error: BaseException | None = None
        self._pause = MIN_IDLE_POLL
        self._left = threading.Event()
        self._thread = threading.Thread(target=self._work, name="training", daemon=True)
        self._thread.start()

    def next_report(self) -> WorkerReport:
        """The next report, waiting for it."""
        if self._broken:
            # Its record has been taken in. Whatever the code left behind goes with the process.
            os._exit(1)
        report = None if self._over else self._reports.get()
        if report is not None:
            self._broken = isinstance(report, Record) and is_broken(report)
            return report
        self._over = True
        if self._error:
            raise self._error
        time.sleep(self._pause)
        self._pause = min(MAX_IDLE_POLL, 1.2 * self._pause)
        return WorkerIdle()

    def release(self) -> None:
        """End it, with the epoch it is in."""
        self._left.set()
        self._thread.join()

    def _work(self) -> None:
        assignment = self._assignment
        self._reports.put(WorkerStarted(host=socket.gethostname(), pid=os.getpid()))
        try:
            with closing(run_attempt(assignment.train, assignment.job, assignment.folder)) as epochs:
                while not self._left.is_set() and not (assignment.folder / STOP).exists():
                    try:
                        self._reports.put(next(epochs))
                    except StopIteration as end:
                        self._reports.put(end.value)
                        break
        except BaseException as error:  # noqa: BLE001 - whatever it is, the driver is told of it
            self._error = error
        finally:
            self._reports.put(None)
