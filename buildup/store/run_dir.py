"""Where things are in a run's folder, and what may be read there without its study."""

import json
import os
import shutil
from pathlib import Path

from buildup.errors import RunError
from buildup.trials.outcome import Epoch, Record, record_from_values
from buildup.trials.training import WEIGHTS

ATTEMPT = "attempt-"
FINAL = "final.json"
METRICS = "metrics.jsonl"
REUSED_FROM = "reused_from"
"""In an attempt that was taken over from another run: which one."""


def folder_of(name: str) -> Path:
    """The folder of a run: `runs/NAME` for a plain name, the folder itself for a path."""
    return Path("runs") / name if Path(name).name == name and name not in {".", ".."} else Path(name)


def check_free(folder: Path) -> None:
    """Raise when a new run can't be made here."""
    if (folder / "run.yaml").exists():
        raise RunError(
            f"{folder}: this run exists already. Go on with it by `buildup resume {folder}`, or give another --run."
        )
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise RunError(f"{folder}: this is there already and is no run. Give another --run.")
    parent = next(parent for parent in (folder, *folder.absolute().parents) if parent.exists())
    if not parent.is_dir() or not os.access(parent, os.W_OK | os.X_OK):
        raise RunError(f"{folder}: no permission to write into {parent}. Give another --run.")


def cores() -> int:
    """How many CPU cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def free_gib(folder: Path) -> float:
    """Free disk space where a folder is or would be, in GiB."""
    parent = next(parent for parent in (folder, *folder.absolute().parents) if parent.exists())
    return shutil.disk_usage(parent).free / 2**30


def final_record(training_folder: Path) -> tuple[int, Record] | None:
    """The final record of a training and the attempt that wrote it, the newest if there are several."""
    for number in reversed(attempts(training_folder)):
        path = attempt_folder(training_folder, number) / FINAL
        if path.is_file():
            try:
                return number, record_from_values(json.loads(path.read_text(encoding="utf-8")))
            except (ValueError, KeyError, TypeError, AttributeError) as problem:
                raise RunError(
                    f"{path}: this is no final record of a training ({type(problem).__name__}: {problem}). "
                    f"Remove the file, and the training goes on from its checkpoint."
                ) from None
    return None


def trained_weights(training_folder: Path) -> Path | None:
    """The weights file of a training; None where it has not ended, or the file was removed.

    It is that of the attempt with the final record, which the score belongs to. Without a record it is the newest.
    """
    folders = [attempt_folder(training_folder, number) for number in reversed(attempts(training_folder))]
    recorded = [folder for folder in folders if (folder / FINAL).is_file()]
    paths = (folder / WEIGHTS for folder in recorded[:1] or folders)
    return next((path for path in paths if path.is_file()), None)


def reused_from(training_folder: Path) -> str | None:
    """The run that a training was taken over from; None for one of the run's own."""
    path = attempt_folder(training_folder, 1) / REUSED_FROM  # nothing is taken over once an attempt has begun
    return path.read_text(encoding="utf-8") if path.is_file() else None


def read_epochs(path: Path) -> tuple[Epoch, ...]:
    """The epochs in a `metrics.jsonl`, up to the first line that a crash left unfinished."""
    if not path.is_file():
        return ()
    epochs: list[Epoch] = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True):
        try:
            values = json.loads(line)
            epoch = Epoch(number=values["number"], metrics=values["metrics"])
        except (ValueError, KeyError, TypeError):
            break
        if not line.endswith("\n"):
            break
        epochs.append(epoch)
    return tuple(epochs)


def trainings_in(folder: Path, epochs: int | None) -> Path:
    """Where a run keeps trainings of as many epochs; None for those that it began with.

    >>> trainings_in(Path("runs/demo"), 30).as_posix()
    'runs/demo/trainings-30'
    """
    return folder / ("trainings" if epochs is None else f"trainings-{epochs}")


def attempts(training_folder: Path) -> list[int]:
    """The numbers of a training's attempts so far, in order."""
    names = (path.name.removeprefix(ATTEMPT) for path in training_folder.glob(f"{ATTEMPT}*"))
    return sorted(int(name) for name in names if name.isdecimal())


def attempt_folder(training_folder: Path, number: int) -> Path:
    """Where an attempt writes: no attempt can touch another's files, even when its driver is gone."""
    return training_folder / f"{ATTEMPT}{number}"
