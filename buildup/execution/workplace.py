"""Where the process of an attempt writes.

Usually that is a folder of the run, which all machines see. With a storage (`--storage-path`) it is a folder of the
machine alone, whose files a thread copies to the storage while the training goes on.
"""

import fnmatch
import os
import shutil
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from buildup.errors import RemoteError, RunError
from buildup.execution.handshake import FOLDER_PATIENCE, unseen
from buildup.store.outage import outlast
from buildup.store.remote_folder import RemoteFolder
from buildup.store.run_dir import FINAL, has_ended, is_own, remote_of
from buildup.trials.outcome import Failure, Reason
from buildup.trials.training import CHECKPOINT, SNAPSHOTS, WEIGHTS

STOP = "stop"
"""A file with this name in an attempt's folder stops the attempt after its current epoch."""
CLAIM = "worker"
"""In the folder of an attempt: the process that trains it. There is never a second one."""
WORK = "buildup-work-"
"""The beginning of the names of folders of a machine alone."""
COPY_INTERVAL = 60.0
"""Seconds after which files are copied that have changed in the middle of an epoch."""
STOP_INTERVAL = 5.0
"""Seconds between two looks into a storage for `STOP`."""


class Workplace(Protocol):
    """The folder of an attempt, as its process sees it."""

    def open(self) -> Failure | None:
        """Take the attempt for this process, or return why this machine can't. Raises if another process has it."""

    def is_stopped(self) -> bool:
        """Whether the driver has asked for the end of the attempt."""

    def note(self) -> None:
        """An epoch has ended, so files have changed."""

    def finish(self) -> None:
        """The final record is written. Raises `OSError` if it can't be kept."""

    def close(self) -> None:
        """The attempt has ended, with a record or without."""


class SharedFolder:
    """A folder that all machines see, so that nothing is copied."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def open(self) -> Failure | None:
        end = time.monotonic() + FOLDER_PATIENCE
        while not self._folder.is_dir():
            if time.monotonic() > end:
                message = f"{socket.gethostname()} {unseen(self._folder)}"
                return Failure(reason=Reason.REFUSED, message=message)
            time.sleep(0.1)
        _claim(self._folder)
        return None

    def is_stopped(self) -> bool:
        return (self._folder / STOP).exists()

    def note(self) -> None:
        """Nothing is to be copied."""

    def finish(self) -> None:
        """The record is where the driver looks."""

    def close(self) -> None:
        """Nothing is held."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Elsewhere:
    """The places in a storage that belong to an attempt."""

    own: RemoteFolder
    earlier: Sequence[tuple[Path, RemoteFolder]]
    """Those of earlier attempts, the newest first, with the folder that the training reads instead."""


class Mirror:
    """A folder of this machine, whose files are copied to a storage. It lies in one that is the attempt's alone."""

    def __init__(self, folder: Path, elsewhere: Elsewhere) -> None:
        self._folder, self._elsewhere, self._remote = folder, elsewhere, elsewhere.own
        self._copied: dict[str, tuple[int, int]] = {}
        self._cut_off: set[str] = set()
        """Files whose copy failed. A disk that left in its middle comes back with a part of it, under another name."""
        self._changed, self._closing = threading.Event(), threading.Event()
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None

    def open(self) -> Failure | None:
        for left in left_behind(self._folder.parent.parent.parent):
            remove_work(left)
        try:
            self._remote.parent.parent.check_marked()
            # A storage has no exclusive creation. This makes a second process improbable, as its start is already.
            if self._remote.has(CLAIM):
                raise FileExistsError(f"{self._remote}: another process trains this attempt.")
            shutil.rmtree(self._folder.parent, ignore_errors=True)
            self._folder.mkdir(parents=True)
            _claim(self._folder)
            self._remote.put(self._folder / CLAIM)
            for folder, remote in self._elsewhere.earlier:
                folder.mkdir(parents=True, exist_ok=True)
                if not remote.get(CHECKPOINT, folder / CHECKPOINT):
                    remote.get(WEIGHTS, folder / WEIGHTS)
                for name in fnmatch.filter(remote.sizes(), SNAPSHOTS):
                    remote.get(name, folder / name)
        except FileExistsError:
            raise
        except (OSError, RunError) as problem:
            return Failure(reason=Reason.HOST_FAULT, message=f"{socket.gethostname()}: {problem}")
        self._thread = threading.Thread(target=self._copy_along, name="copy", daemon=True)
        self._thread.start()
        return None

    def is_stopped(self) -> bool:
        """Whether the thread saw a sign of the driver in the storage. One that hangs does not hold the training up."""
        return self._stopped.is_set()

    def note(self) -> None:
        """Wake the thread. While it copies, the training goes on, and what it left out comes with the next copy."""
        self._changed.set()

    def finish(self) -> None:
        """Copy everything, the final record last. A storage that does not answer is asked again for minutes."""
        self._end_thread()
        outlast(self._remote, self._copy)
        if self._cut_off:
            for name in self._remote.sizes():
                if name.startswith(tuple(f".{cut}." for cut in self._cut_off)):
                    self._remote.remove(name)

    def close(self) -> None:
        """Copy what the attempt left, such as its last state, and remove the folders of this machine."""
        if self._thread is None:
            return
        self._end_thread()
        with suppress(OSError):  # then the next attempt goes on from an earlier state
            self._copy()
        remove_work(self._folder.parent)

    def _end_thread(self) -> None:
        assert self._thread is not None
        self._closing.set()
        self._changed.set()
        self._thread.join()

    def _copy_along(self) -> None:
        looked = copied = time.monotonic()
        while True:
            changed = self._changed.wait(STOP_INTERVAL)
            self._changed.clear()
            if self._closing.is_set():
                return
            if changed or time.monotonic() - copied >= COPY_INTERVAL:
                with suppress(OSError):  # it is tried again after the next epoch
                    self._copy()
                copied = time.monotonic()
            if time.monotonic() - looked >= STOP_INTERVAL:
                with suppress(OSError):
                    if self._remote.has(STOP):
                        self._stopped.set()
                looked = time.monotonic()

    def _copy(self) -> None:
        """Copy each file that has changed, state and record last, so that all that they tell of is there."""
        found = {path.name: path for path in self._folder.iterdir() if not path.name.startswith(".")}
        for name in sorted(found, key=lambda name: (name == FINAL, name == CHECKPOINT, name)):
            with suppress(FileNotFoundError):  # the training removed it meanwhile
                status = found[name].stat()
                state = (status.st_ino, status.st_mtime_ns)
                if self._copied.get(name) != state:
                    try:
                        _put(self._remote, found[name])
                    except RemoteError:
                        self._cut_off.add(name)
                        raise
                    self._copied[name] = state
        for name in self._copied.keys() - found.keys():
            self._remote.remove(name)
            del self._copied[name]


def stop_attempt(folder: Path) -> None:
    """Tell an attempt to stop: leave `STOP` in its folder of the run and, without waiting, in its storage."""
    sign = folder / STOP
    sign.touch()
    if remote := remote_of(folder):

        def put() -> None:
            with suppress(OSError):  # then it trains to its end, and nobody waits for it
                _put(remote, sign)

        threading.Thread(target=put, name="stop", daemon=True).start()  # a storage may answer late


def _put(remote: RemoteFolder, path: Path) -> None:
    """Copy a file into the storage of an attempt. Raises if the storage is not there, as when no disk is mounted."""
    remote.parent.parent.check_marked()
    remote.put(path)


def _claim(folder: Path) -> None:
    """Take an attempt for this process; raises if another one has it, which the driver had given up waiting for."""
    with (folder / CLAIM).open("x", encoding="utf-8") as file:
        file.write(f"{os.getpid()} on {socket.gethostname()}")


def left_behind(temporary: Path) -> Iterator[Path]:
    """The folders of attempts that killed processes of ours left in the temporary folder of this machine."""
    for claim in sorted(temporary.glob(f"{WORK}*/*/*/{CLAIM}")):
        with suppress(OSError, ValueError):
            pid, _, host = claim.read_text(encoding="utf-8").partition(" on ")
            if host == socket.gethostname() and is_own(claim) and has_ended(int(pid)):
                yield claim.parent.parent


def remove_work(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    with suppress(OSError):  # another attempt of this machine may be beside it
        folder.parent.rmdir()
