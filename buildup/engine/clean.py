"""Remove what no command of a run needs any more: by `clean`, and during a search to keep within `--disk-budget`.

Weights are most of a run. After a search, export and `analyze` need those of the base and of the winner; a training
without weights keeps its score, so nothing is trained again. Processes leave folders of Ray behind, and those that were
killed folders of Tune, and of trainings that are copied to a storage.
"""

import logging
import os
import shutil
import socket
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from datetime import datetime
from fnmatch import fnmatch
from pathlib import Path

from buildup.engine.load_state import state_of
from buildup.engine.problems import Problems
from buildup.engine.replay import View
from buildup.errors import RunError
from buildup.execution.workplace import left_behind, remove_work
from buildup.report.words import memory
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
from buildup.store.run_record import RunRecord, open_record
from buildup.trials.event import Event
from buildup.trials.history import History
from buildup.trials.outcome import Failure, Record
from buildup.trials.training import CHECKPOINT, SNAPSHOTS, WEIGHTS, candidate_id

log = logging.getLogger("buildup")

LARGE = (WEIGHTS, CHECKPOINT, SNAPSHOTS)
TEMPORARY = Path(tempfile.gettempdir())
RAY = (Path("/tmp") if sys.platform == "darwin" else Path(os.environ.get("RAY_TMPDIR") or TEMPORARY)) / "ray"
"""Ray does not follow TMPDIR on macOS, where names of sockets would become too long."""
TUNE = "buildup-tune-"
"""The beginning of the names of Tune's folders; the process that made one follows."""
ENDED = "folder of an ended process"
NEAR = 600.0
"""Seconds between the start of Ray and of the writing, at most. Other programs use Ray, too, and process ids recur."""
INTERVAL = 60.0
"""Seconds between two looks at the folder while no training ends."""
SHARE = 0.02
"""Of the time of the search that the looks take, at most. That at thousands of trainings takes long."""
BYTES_PER_PARAMETER = 12
"""Of the files of a training, at least: its weights, and a checkpoint of them with the momentum of the optimizer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Leftover:
    """A file or a folder that no command needs."""

    path: Path
    what: str
    size: int
    """The bytes that its removal frees."""
    links: tuple[Path, ...] = ()
    """Other names of the file in this run, which go with it."""
    remote: RemoteFolder | None = None
    """Where the file is instead, if it is in a storage."""

    @property
    def shown(self) -> str:
        return f"{self.remote}/{self.path.name}" if self.remote else str(self.path)

    def remove(self) -> None:
        if self.remote:
            self.remote.remove(self.path.name)
        elif self.path.is_dir():
            shutil.rmtree(self.path, ignore_errors=True)
        else:
            for path in (self.path, *self.links):
                path.unlink(missing_ok=True)


@dataclass(kw_only=True)
class BudgetObserver:
    """Looks at the size of a run when a training has ended.

    If that is over `--disk-budget`, files go that neither `resume` nor `final` reads.
    """

    run: RunRecord
    _looked: float = float("-inf")
    _took: float = 0.0
    """Seconds of the last look."""
    _ended: bool = False
    """Whether a training has ended since."""
    _told: bool = False
    """Whether it was said that the budget can't be kept."""

    def see(self, view: View, history: History, event: Event | None) -> None:
        self._ended |= event is not None and isinstance(event.update, Record)
        begun = time.monotonic()
        if begun - self._looked >= max(0.0 if self._ended else INTERVAL, self._took / SHARE):
            self.keep(view)
            self._looked = time.monotonic()
            self._took, self._ended = self._looked - begun, False

    def keep(self, view: View, *, stopped: bool = False) -> None:
        """Remove what can go, as far as the run is too large: first states that nothing reads, then losers.

        `stopped` says that no worker trains any more.
        """
        budget = self.run.settings.disk_budget
        if budget is None:
            return
        freed, size = 0, size_of(self.run.folder)
        for left in (*finished_states(self.run), *losers(self.run, view, stopped=stopped)) if size > budget else ():
            if size - freed <= budget:
                break
            if not left.size:  # another run has it, too
                continue
            with suppress(OSError):
                left.remove()
                freed += left.size
        if freed:
            log.info("disk       %s of files were removed that `resume` and `final` do not need", memory(freed))
        if size - freed > budget and not self._told:
            log.warning(
                f"warning: {self.run.folder} has {memory(size - freed)}, more than --disk-budget {memory(budget)}. "
                f"`resume` and `final` need what is left of it, so it stays."
            )
        self._told = size - freed > budget


def losers(run: RunRecord, view: View, *, stopped: bool) -> list[Leftover]:
    """The weights of all trainings that have ended, but for those of the base and of the best network.

    While the search goes on, only networks that were decided on can have lost. When it has ended and `stopped`, so
    that no worker trains, a training that was stopped as unneeded has ended, too.
    """
    kept = {view.candidates[0].id, view.best.id}
    decided = {candidate.id for candidate in view.candidates} - {view.current.id if view.current else ""}
    # Those of other epochs are not judged by this view: a return to that number goes on with them.
    checks = {training.id for training in view.checks}
    unneeded = {path for path in run.trainings.glob("*") if path.name not in checks} if view.finished else set()
    folders = [
        attempt_folder(training, number)
        for training in sorted(run.folder.glob("trainings*/*"))
        if (own := candidate_id(training.name)) not in kept and (view.finished or own in decided)
        if _is_done(training, unneeded=stopped and training in unneeded)
        for number in attempts(training)
    ]
    here = _files([path for folder in folders for name in LARGE for path in sorted(folder.glob(name))], "weights")
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
    return _files([path for path in states if _is_done(path.parent.parent)], "checkpoint")


def remove_losers(run: RunRecord, view: View) -> None:
    for left in losers(run, view, stopped=True):
        left.remove()


def clean_runs(names: Sequence[str], *, dry_run: bool) -> tuple[list[Leftover], list[str]]:
    """Find what can go of some runs and of this machine, and remove it, but for a dry run.

    Returns what goes, and a sentence on what stays of each run. Where a run can't be cleaned, nothing is removed.
    """
    problems = Problems()
    if not names:
        problems.found.append("clean: RUN is missing. See buildup clean --help.")
    runs = [run for name in dict.fromkeys(names) if (run := problems.checked(None, open_record, name))]
    looked = [both for run in runs if (both := problems.checked(None, leftovers, run))]
    problems.raise_any()
    # What killed workers left in the temporary folder, of whichever run: they knew none.
    gone = [_leftover(path, ENDED) for path in left_behind(Path(tempfile.gettempdir()))]
    stays = [one for _, one in looked]
    if dry_run:
        return [*gone, *(one for found, _ in looked for one in found)], stays
    for one in gone:
        remove_work(one.path)
    for run in runs:
        found, _ = leftovers(run)  # again: the last run may have shared files with it
        with closing(acquire_run_lock(run.folder)):
            for one in found:
                one.remove()
        gone += found
    return gone, stays


def leftovers(run: RunRecord) -> tuple[list[Leftover], str]:
    """What can go of a run, and a sentence on what stays; raises if a process is writing the run."""
    if driver := driver_of(run.folder):
        raise RunError(f"{run.folder}: this run is being written by process {driver}. Wait for it, or end it first.")
    view, _ = state_of(run)
    found = list(_sessions(run.folder))
    if not view.finished:
        return found, f"{run.folder}: all weights stay, because the search has not ended."
    names = " and ".join(dict.fromkeys((view.candidates[0].layout, view.best.layout)))
    return [*losers(run, view, stopped=True), *found], f"{run.folder}: all scores, and the weights of {names} stay."


def _is_done(training: Path, *, unneeded: bool = False) -> bool:
    """Whether nothing goes on with a training: it has ended, and `--retry-failed` does not do it anew."""
    if found := final_record(training):
        outcome = found[1].outcome
        return not (isinstance(outcome, Failure) and outcome.reason.is_avoidable)
    return unneeded


def _files(paths: Iterable[Path], what: str) -> list[Leftover]:
    """Files, each once: an attempt takes over snapshots of an earlier one as links, and only the last one frees."""
    names: dict[tuple[int, int], list[Path]] = {}
    for path in paths:
        with suppress(FileNotFoundError):  # a training has removed it
            status = path.lstat()
            names.setdefault((status.st_dev, status.st_ino), []).append(path)
    return [
        Leftover(path=path, links=tuple(links), what=what, size=size_of(path, *links))
        for path, *links in names.values()
    ]


def _leftover(path: Path, what: str) -> Leftover:
    return Leftover(path=path, what=what, size=size_of(path))


def remove_sessions(folder: Path) -> None:
    """Remove what Ray and Tune made for the killed process that last wrote a run, before another one writes it."""
    for one in [*_sessions(folder)]:
        one.remove()


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
        for path in (*sessions, *TEMPORARY.glob(f"{TUNE}{pid}-*")):
            if path.is_dir() and not path.is_symlink() and is_own(path):
                yield _leftover(path, ENDED)


def _began(session: Path) -> float:
    date, clock = session.name.split("_")[1:3]
    return datetime.strptime(f"{date}_{clock}", "%Y-%m-%d_%H-%M-%S").timestamp()


def size_of(*paths: Path) -> int:
    """The bytes of files, and of all files below folders, without those that have a name elsewhere, as in another run.

    So it is what their removal frees.
    """
    size, missing = 0, dict[tuple[int, int], int]()
    for path in paths:
        for file in (
            [path] if path.is_file() else (Path(root) / name for root, _, names in os.walk(path) for name in names)
        ):
            with suppress(FileNotFoundError):  # a training has removed it
                status = file.lstat()
                key = (status.st_dev, status.st_ino)
                missing[key] = missing.get(key, status.st_nlink) - 1  # names that were not found so far
                size += 0 if missing[key] else status.st_size
    return size
