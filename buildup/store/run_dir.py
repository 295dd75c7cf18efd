"""A run's folder: where its files are, how they are written and locked, and which are read without the study."""

import errno
import json
import math
import os
import socket
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from fnmatch import fnmatch
from pathlib import Path
from typing import IO, Any, TypeVar

from filelock import lock_descriptor

from buildup.errors import RunError, command
from buildup.files import write_atomic
from buildup.graph.base_name import base_in_path
from buildup.settings import SearchSettings
from buildup.store.remote_folder import RemoteFolder
from buildup.trials.decision import (
    Decision,
    Diagnosis,
    decision_from_values,
    diagnosis_from_values,
    diagnosis_to_values,
)
from buildup.trials.outcome import Epoch, Record, epoch_from_values, record_from_values
from buildup.trials.training import SNAPSHOTS, WEIGHTS

ATTEMPT = "attempt-"
FINAL = "final.json"
FAILED = "failed.json"
"""In place of a final record: what an attempt ended with that another attempt is made after."""
METRICS_FILE = "metrics.jsonl"
DECISIONS = "decisions.jsonl"
DIAGNOSTICS = "diagnostics.jsonl"
ELSEWHERE = "elsewhere"
"""In the folder of an attempt whose worker writes into a storage: the URL of its folder there."""
REUSED_FROM = "reused_from"
"""In an attempt that was copied from another run: the folder of that run."""
LOCK = ".lock"
LOCK_TRIES = 5
"""`driver_of` holds the lock for an instant, so a process counts as the driver only after so many failed tries."""
LOCK_PAUSE = 0.02
"""Seconds between two tries."""

UNREADABLE = (ValueError, LookupError, TypeError, AttributeError, RecursionError)
"""What damaged JSON, and the values in it, lead to."""

Line = TypeVar("Line")


def folder_of(name: str) -> Path:
    """The folder of a run: `runs/NAME` for a plain name, the folder itself for a path."""
    return Path("runs") / name if Path(name).name == name and name not in {".", ".."} else Path(name)


def folder_for(settings: SearchSettings) -> Path:
    """The folder of the run, by default `runs/BASE-DATASET`."""
    dataset = settings.dataset
    return folder_of(settings.run or f"{base_in_path(settings.base)}-{Path(dataset.partition(':')[2] or dataset).name}")


def check_free(folder: Path) -> None:
    if (folder / "run.yaml").exists():
        raise RunError(
            f"{folder}: this run exists already. Go on with it by `{command('resume', folder)}`, or give another --run."
        )
    # A process that died before it wrote `run.yaml` leaves no more than these.
    if folder.exists() and not (folder.is_dir() and all(map(_is_begun, folder.iterdir()))):
        raise RunError(f"{folder}: this is there already and is no run. Give another --run.")
    parent = next(parent for parent in (folder, *folder.absolute().parents) if parent.exists())
    if not parent.is_dir() or not os.access(parent, os.W_OK | os.X_OK):
        raise RunError(f"{folder}: no permission to write into {parent}. Give another --run.")


def _is_begun(path: Path) -> bool:
    return path.name.startswith((LOCK, ".run.yaml.")) or (path.name == "trainings" and not any(path.iterdir()))


def acquire_run_lock(folder: Path) -> IO[str]:
    """Lock a run for this process until the returned file is closed or the process ends."""
    if not folder.is_dir():
        raise RunError(f"{folder}: there is no such run.")
    try:
        file = (folder / LOCK).open("a+", encoding="utf-8")
    except OSError as problem:
        raise RunError(
            f"{folder}: it can't be written: {problem.strerror}. `status`, `report` and `export` only read a run; "
            f"to go on with it, copy it to where you may write."
        ) from None
    try:
        if not _locked(file):
            file.seek(0)
            raise RunError(
                f"{folder}: this run is being written by process {_holder(file)}. Wait for it, or end it first."
            )
        for left in folder.glob(".run.yaml.*"):  # a process died while it wrote
            left.unlink()
        file.truncate(0)
        file.write(f"{os.getpid()} on {socket.gethostname()}")
        file.flush()
    except BaseException:
        file.close()
        raise
    return file


def driver_of(folder: Path) -> str | None:
    """The process that writes a run, as `pid on host`; None when there is none."""
    path = folder / LOCK
    try:
        # NFS locks only what is open for writing. A reader who may not write there can't tell who does.
        with path.open("r+" if os.access(path, os.W_OK) else "r", encoding="utf-8") as file:
            return None if _locked(file) else _holder(file)
    except RunError as problem:  # no lock can be seen from here
        return "unknown" if getattr(problem.__context__, "errno", None) == errno.EBADF else None
    except OSError:
        return None


def _holder(file: IO[str]) -> str:
    try:
        return file.read().strip() or "unknown"
    except PermissionError:  # Windows lets nobody else read what is locked
        return "unknown"


def has_ended(pid: int) -> bool:
    """Whether a process of this machine has ended. On Windows never: what asks elsewhere would end it there."""
    if os.name == "nt":
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except PermissionError:  # it is somebody else's
        pass
    return False


def is_own(path: Path) -> bool:
    return not hasattr(os, "getuid") or path.stat().st_uid == os.getuid()


def _locked(file: IO[str]) -> bool:
    """Lock an open file; False if another process holds it."""
    for _ in range(LOCK_TRIES):
        try:
            if lock_descriptor(file.fileno(), blocking=False):
                return True
        except OSError as problem:  # not that someone holds it: the file system has no locks
            raise RunError(f"{file.name}: it can't be locked: {problem.strerror}. Keep runs on another disk.") from None
        time.sleep(LOCK_PAUSE)
    return False


def trainings_in(folder: Path, epochs: int | None) -> Path:
    """The folder of a run's trainings of so many epochs; None for the number that the run began with.

    >>> trainings_in(Path("runs/demo"), 30).as_posix()
    'runs/demo/trainings-30'
    """
    return folder / ("trainings" if epochs is None else f"trainings-{epochs}")


def attempts(training_folder: Path) -> list[int]:
    names = (path.name.removeprefix(ATTEMPT) for path in training_folder.glob(f"{ATTEMPT}*"))
    return sorted(int(name) for name in names if name.isdecimal())


def attempt_folder(training_folder: Path, number: int) -> Path:
    """The folder of one attempt. No attempt writes into another's, even if an older one is still running."""
    return training_folder / f"{ATTEMPT}{number}"


def note_remote(attempt: Path, remote: RemoteFolder) -> None:
    """Note where the worker of an attempt writes. Its URL may hold a password."""
    write_atomic(attempt / ELSEWHERE, remote.url.encode(), mode=0o600)


def remote_of(attempt: Path) -> RemoteFolder | None:
    """The folder in a storage that the worker of an attempt writes into; None if it is that of the run."""
    path = attempt / ELSEWHERE
    return RemoteFolder(path.read_text(encoding="utf-8", errors="replace")) if path.is_file() else None


def _is_here(path: Path) -> bool:
    """Whether a file of an attempt is in the run's folder, after it was brought from the storage if it is there."""
    if path.is_file():
        return True
    remote = remote_of(path.parent)
    if remote is None:
        return False
    if remote.get(path.name, path):
        return True
    remote.parent.parent.check_marked()
    return False


def final_record(training_folder: Path) -> tuple[int, Record] | None:
    """The newest final record of a training, with the number of the attempt that wrote it."""
    for number in reversed(attempts(training_folder)):
        path = attempt_folder(training_folder, number) / FINAL
        if _is_recorded(path.parent):
            try:
                return number, record_from_values(json.loads(path.read_text(encoding="utf-8")))
            except UNREADABLE as problem:
                raise RunError(
                    f"{path}: this is no final record of a training ({type(problem).__name__}: {problem}). "
                    f"Remove the file, and the training goes on from its checkpoint."
                ) from None
    return None


def set_aside_records(training_folder: Path, last: float = math.inf) -> None:
    """Rename the final records of a training up to an attempt, so that it is trained again."""
    for number in attempts(training_folder):
        attempt = attempt_folder(training_folder, number)
        if number <= last and _is_recorded(attempt):
            (attempt / FINAL).rename(attempt / FAILED)


def _is_recorded(attempt: Path) -> bool:
    """Whether an attempt has a final record that counts. One that was set aside may still be in the storage."""
    return not (attempt / FAILED).is_file() and _is_here(attempt / FINAL)


def trained_weights(training_folder: Path) -> Path | None:
    """The weights file of a training; None if it has not ended, or the file was removed.

    It is that of the newest attempt with a final record, to which the score belongs. Without a record it is the newest.
    """
    folders = [attempt_folder(training_folder, number) for number in reversed(attempts(training_folder))]
    recorded = [folder for folder in folders if _is_recorded(folder)]
    paths = (folder / WEIGHTS for folder in recorded[:1] or folders)
    return next((path for path in paths if _is_here(path)), None)


def kept_snapshots(training_folder: Path) -> dict[int, Path]:
    """The weights files that a training has kept, by the epoch after which each was written."""
    before, _, after = SNAPSHOTS.partition("*")
    found = {}
    for number in attempts(training_folder):  # of the same epoch, the newest
        folder = attempt_folder(training_folder, number)
        remote = remote_of(folder)
        names = remote.sizes() if remote else [path.name for path in folder.glob(SNAPSHOTS)]
        for path in (folder / name for name in names if fnmatch(name, SNAPSHOTS) and _is_here(folder / name)):
            if (epoch := path.name.removeprefix(before).removesuffix(after)).isdecimal():
                found[int(epoch)] = path
    return dict(sorted(found.items()))


def reused_from(training_folder: Path) -> str | None:
    """The run that a training was copied from; None for one of the run's own."""
    path = attempt_folder(training_folder, 1) / REUSED_FROM  # nothing is copied once an attempt has begun
    return path.read_text(encoding="utf-8") if path.is_file() else None


def read_epochs(path: Path) -> tuple[Epoch, ...]:
    """The epochs in a `metrics.jsonl`, up to the first line that a crash left unfinished."""
    return tuple(_lines(path, epoch_from_values))


def _lines(path: Path, from_values: Callable[[dict[str, Any]], Line]) -> Iterator[Line]:
    if path.is_file():
        finished, _, _ = path.read_text(encoding="utf-8", errors="replace").rpartition("\n")
        with suppress(*UNREADABLE):
            for line in finished.split("\n"):
                yield from_values(json.loads(line))


def read_decisions(path: Path) -> tuple[Decision, ...]:
    """The decisions in a `decisions.jsonl`, up to the first line that is damaged."""
    return tuple(_lines(path, decision_from_values))


def read_diagnoses(folder: Path) -> tuple[Diagnosis, ...]:
    """The measurements of a run's verdicts, in the order of steps; empty if none were made."""
    path = folder / DIAGNOSTICS
    if not path.is_file():
        return ()
    try:
        return tuple(diagnosis_from_values(json.loads(line)) for line in path.read_text(encoding="utf-8").splitlines())
    except UNREADABLE as problem:
        raise RunError(
            f"{path}: damaged, or not written by this version of buildup ({type(problem).__name__}: {problem}). "
            f"Remove it, and measure again by `{command('analyze', folder, '--verdicts')}`."
        ) from None


def write_diagnoses(folder: Path, diagnoses: Iterable[Diagnosis]) -> None:
    ordered = sorted(diagnoses, key=lambda diagnosis: diagnosis.step)
    lines = "".join(json.dumps(diagnosis_to_values(diagnosis), allow_nan=False) + "\n" for diagnosis in ordered)
    write_atomic(folder / DIAGNOSTICS, lines.encode())
