"""What the search asks of those who train: an ordered set of wanted trainings in, events out."""

import errno
import json
import time
import traceback
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from buildup.errors import BuildupError, RunError, SearchError
from buildup.store.atomic_write import write_atomic
from buildup.trials.outcome import (
    Epoch,
    Failed,
    Failure,
    Outcome,
    Reason,
    Record,
    Score,
    record_from_values,
    record_to_values,
)
from buildup.trials.training import WEIGHTS, Training

ATTEMPT = "attempt-"
FINAL = "final.json"
METRICS = "metrics.jsonl"
REUSED_FROM = "reused_from"
"""In an attempt that was taken over from another run: which one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Started:
    """A worker took a training up."""

    training: Training
    attempt: int
    worker: str
    """Host and process id, as a person would look it up: `node1:4711`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EpochDone:
    """A training went one epoch further."""

    training: Training
    epoch: Epoch


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """A training ended, with a score or with a failure."""

    training: Training
    record: Record


Event = Started | EpochDone | Ended


class Evaluator(Protocol):
    """Trains what is wanted. Ray's workers are one (`workers.py`), a table of scores is another (`table.py`)."""

    @property
    def workers(self) -> int:
        """How many trainings run side by side."""
        ...

    def request(self, speculate: Sequence[Training]) -> None:
        """Start the first of these as workers get free, in this order, and end what runs but is not among them.

        A training that runs goes on undisturbed for as long as it is wanted. One that is ended this way gives
        `Ended` with the reason `unneeded`. A training that has ended is not started again.
        """
        ...

    def next_event(self, timeout: float | None = None) -> Event | None:
        """The next thing that happened, waiting for it up to `timeout` seconds; None when nothing did."""
        ...

    def close(self) -> None:
        """End all that runs. Trainings keep their checkpoints."""
        ...


def attempt(
    train: Callable[[Any], Generator[Epoch, None, Score]], job: Any, folder: Path
) -> Generator[Epoch, None, Record]:
    """Run a training in its attempt folder, whatever happens in it, and leave its final record there.

    A training tells all its epochs, those of earlier attempts too: it remembers them, and nobody else is sure to.
    A failure of the place leaves no record, so that the training goes on from its checkpoint once that is mended.
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
    except Exception:  # noqa: BLE001 - a broken candidate is a result, and this is the one place where it becomes one
        message = traceback.format_exc()
        outcome = Failure(reason=Reason.BROKEN, message=message, seconds=time.monotonic() - started)
    record = Record(outcome=outcome, curve=tuple(curve))
    if isinstance(outcome, Failure) and outcome.reason.is_infrastructure:
        return record
    try:
        write_atomic(folder / FINAL, json.dumps(record_to_values(record)).encode())
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        full = Failure(reason=Reason.DISK_FULL, message=f"{folder} can't be written ({error}). Free some space there.")
        return Record(outcome=full, curve=record.curve)
    return record


def raise_if_infrastructure(event: Event) -> Event:
    """Pass an event on, unless it tells of a failure that says nothing of the candidate."""
    if isinstance(event, Ended):
        outcome = event.record.outcome
        if isinstance(outcome, Failure) and outcome.reason.is_infrastructure:
            raise SearchError(
                f"{outcome.message} Nothing was decided by it: once that is mended, `resume` (or the same `final`) "
                f"goes on from there."
            )
    return event


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
