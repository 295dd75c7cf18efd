"""One attempt at a training: whatever happens in it, it ends in a record."""

import errno
import json
import time
import traceback
from collections.abc import Callable, Generator
from contextlib import closing
from pathlib import Path
from typing import Any

from buildup.errors import BuildupError
from buildup.store.atomic_write import write_atomic
from buildup.store.run_dir import FINAL
from buildup.trials.outcome import Epoch, Failed, Failure, Outcome, Reason, Record, Score, record_to_values


def run_attempt(
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
