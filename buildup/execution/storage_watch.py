"""Whether the storage that trainings write to is there, asked so that a server or a disk that hangs holds up nobody."""

import time
from concurrent.futures import Future, wait
from pathlib import Path

from buildup.errors import RemoteError, RunError
from buildup.execution.background import in_thread
from buildup.store.outage import Outage
from buildup.store.remote_folder import RemoteFolder
from buildup.store.run_dir import final_record
from buildup.trials.outcome import Record

INTERVAL, TIMEOUT = 10.0, 5.0
"""Seconds between two looks, and those after which the storage counts as away."""
NO_ANSWER = "no answer for {:g} s"


class StorageWatch:
    """What is known of a storage. Without one, all trainings write to the run's folder, which is always there."""

    def __init__(self, remote: RemoteFolder | None, folder: Path) -> None:
        """`folder` is the run's folder of trainings."""
        self._remote = remote
        self._folder = folder
        self._outage = Outage(str(remote))
        self._unread = ""
        """The training whose record could not be read, if it was not the storage as a whole."""
        self._asked: tuple[float, Future[None]] | None = None
        """Since when it is asked, and its answer."""

    @property
    def is_away(self) -> bool:
        return self._outage.is_on

    @property
    def given_up(self) -> str:
        """Why it did not answer, if it has been away for so long that nobody should wait any more."""
        return self._outage.cause if self._outage.is_too_long else ""

    def record_of(self, training_id: str) -> tuple[int, Record] | None:
        """The final record of a training. Raises `RemoteError` if it is in the storage, and that does not answer."""
        folder = self._folder / training_id
        try:
            if self._remote is None:
                return final_record(folder)
            try:
                return in_thread(final_record, folder).result(timeout=TIMEOUT)
            except TimeoutError:
                raise RemoteError(NO_ANSWER.format(TIMEOUT)) from None
        except RemoteError as problem:
            self._unread = training_id
            self._outage.goes_on(str(problem))
            raise

    def answers(self, *, now: bool = False) -> bool:
        """Whether it answered when it was last asked. It is asked now and then; with `now`, at once."""
        if self._remote and self._asked is None and (now or self._outage.is_due):
            self._asked = time.monotonic(), in_thread(_ask, self._remote, self._folder / self._unread)
        if self._asked:
            since, answer = self._asked
            if now:
                wait([answer], timeout=TIMEOUT)
            if answer.done():
                self._asked = None
                if problem := answer.exception():
                    self._outage.goes_on(str(problem))
                else:
                    self._unread = ""
                    self._outage.end(ask_again=INTERVAL)
            elif time.monotonic() - since > TIMEOUT:
                self._asked = None  # that thread may never return, so another one asks when it is due
                self._outage.goes_on(NO_ANSWER.format(TIMEOUT))
        return not self._outage.is_on


def _ask(remote: RemoteFolder, training_folder: Path) -> None:
    """Raise if a storage is not there, or the record of a training in it can't be read."""
    remote.check_marked()
    try:
        final_record(training_folder)  # nothing is found in the folder of all trainings
    except RemoteError:
        raise
    except RunError:  # it was read; what is wrong with it is told when it is adopted
        pass
