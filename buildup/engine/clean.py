"""Remove what no command of a run needs any more.

Weights are most of a run. After a search, export and `analyze` need those of the base and of the winner; a training
without weights keeps its score, so nothing is trained again. Processes leave folders of Ray behind, and those that were
killed folders of Tune, and of trainings that are copied to a storage.
"""

import os
import shutil
import socket
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from datetime import datetime
from fnmatch import fnmatch
from pathlib import Path

from buildup.engine.load_state import state_of
from buildup.engine.replay import View
from buildup.errors import RunError
from buildup.execution.workplace import left_behind, remove_work
from buildup.store.remote_folder import RemoteFolder
from buildup.store.run_dir import (
    LOCK,
    acquire_run_lock,
    attempt_folder,
    attempts,
    driver_of,
    final_record,
    has_ended,
    is_own,
    remote_of,
)
from buildup.store.run_record import RunRecord
from buildup.trials.training import CHECKPOINT, SNAPSHOTS, WEIGHTS, candidate_id

LARGE = (WEIGHTS, CHECKPOINT, SNAPSHOTS)
RAY = Path(tempfile.gettempdir()) / "ray"
TUNE = "buildup-tune-"
"""The beginning of the names of Tune's folders; the process that made one follows."""
ENDED = "folder of an ended process"
NEAR = 600.0
"""Seconds between the start of Ray and of the writing, at most. Other programs use Ray, too, and process ids recur."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Leftover:
    """A file or a folder that no command needs."""

    path: Path
    what: str
    size: int
    """The bytes that its removal frees."""
    remote: RemoteFolder | None = None
    """Where the file is instead, if it is in a storage."""

    @property
    def shown(self) -> str:
        """Where it is, for people."""
        return f"{self.remote}/{self.path.name}" if self.remote else str(self.path)

    def remove(self) -> None:
        if self.remote:
            self.remote.remove(self.path.name)
        elif self.path.is_dir():
            shutil.rmtree(self.path, ignore_errors=True)
        else:
            self.path.unlink(missing_ok=True)


def losers(run: RunRecord, view: View) -> list[Leftover]:
    """The weights of all trainings that have ended, but for those of the base and of the best network.

    While the search goes on, only networks that were decided on can have lost.
    """
    kept = {view.candidates[0].id, view.best.id}
    decided = {candidate.id for candidate in view.candidates} - {view.current.id if view.current else ""}
    folders = [
        attempt_folder(training, number)
        for training in sorted(run.folder.glob("trainings*/*"))
        if (own := candidate_id(training.name)) not in kept and (view.finished or own in decided)
        if final_record(training)
        for number in attempts(training)
    ]
    here = [_leftover(path, "weights") for folder in folders for name in LARGE for path in sorted(folder.glob(name))]
    return here + [
        Leftover(path=folder / name, what="weights", size=size, remote=remote)
        for folder in folders
        if (remote := remote_of(folder))
        for name, size in remote.sizes().items()
        if any(fnmatch(name, large) for large in LARGE)
    ]


def finished_states(run: RunRecord) -> list[Leftover]:
    """The checkpoints that earlier attempts left of trainings that have ended since: nothing reads them."""
    states = sorted(run.folder.glob(f"trainings*/*/*/{CHECKPOINT}"))
    return [_leftover(path, "checkpoint") for path in states if final_record(path.parent.parent)]


def remove_losers(run: RunRecord, view: View) -> None:
    """Remove the weights of all trainings that have ended, but for those of the base and of the winner."""
    for left in losers(run, view):
        left.remove()


def leftovers(run: RunRecord) -> tuple[list[Leftover], str]:
    """What can go of a run, and a sentence on what stays; raises if a process is writing the run."""
    if driver := driver_of(run.folder):
        raise RunError(f"{run.folder}: this run is being written by process {driver}. Wait for it, or end it first.")
    view, _ = state_of(run)
    found = list(_sessions(run.folder))
    if not view.finished:
        return found, f"{run.folder}: all weights stay, because the search has not ended."
    names = " and ".join(dict.fromkeys((view.candidates[0].layout, view.best.layout)))
    return [*losers(run, view), *found], f"{run.folder}: all scores, and the weights of {names} stay."


def remove_leftovers(runs: Sequence[RunRecord]) -> list[Leftover]:
    """Remove what can go of some runs and of this machine, and return it with the bytes that it freed."""
    removed = left_work()
    for one in removed:
        remove_work(one.path)
    for run in runs:
        found, _ = leftovers(run)
        with closing(acquire_run_lock(run.folder)):
            for one in found:
                one.remove()
        removed += found
    return removed


def left_work() -> list[Leftover]:
    """What killed workers left in the temporary folder of this machine, of whichever run: they knew none."""
    return [_leftover(path, ENDED) for path in left_behind(Path(tempfile.gettempdir()))]


def _leftover(path: Path, what: str) -> Leftover:
    return Leftover(path=path, what=what, size=size_of(path))


def _sessions(folder: Path) -> Iterator[Leftover]:
    """The folders that Ray and Tune made for the last process that wrote a run, if it ran here and has ended.

    Tune's stays where a process is killed, and Ray's always.
    """
    lock = folder / LOCK
    if os.name == "nt" or not lock.is_file():  # Windows lets nobody read a lock that is held
        return
    pid, _, host = lock.read_text(encoding="utf-8").strip().partition(" on ")
    if pid.isdecimal() and host == socket.gethostname() and has_ended(int(pid)):
        sessions = (path for path in RAY.glob(f"session_*_{pid}") if abs(_began(path) - lock.stat().st_mtime) < NEAR)
        for path in (*sessions, *RAY.parent.glob(f"{TUNE}{pid}-*")):
            if path.is_dir() and not path.is_symlink() and is_own(path):
                yield _leftover(path, ENDED)


def _began(session: Path) -> float:
    """When Ray began a session, by the name of its folder."""
    date, time = session.name.split("_")[1:3]
    return datetime.strptime(f"{date}_{time}", "%Y-%m-%d_%H-%M-%S").timestamp()


def size_of(path: Path) -> int:
    """The bytes of a file, or of all files below a folder, without those that another run holds, too."""
    files = [path] if path.is_file() else [Path(root) / name for root, _, names in os.walk(path) for name in names]
    size = 0
    for file in files:
        with suppress(FileNotFoundError):  # a training has removed it
            status = file.lstat()
            size += status.st_size if status.st_nlink == 1 else 0
    return size
