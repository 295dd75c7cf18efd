"""A training that only sleeps, for measuring what all else costs."""

import os
import time
from collections.abc import Generator
from dataclasses import dataclass

from buildup.trials.outcome import Epoch, Score

IMAGES = 5_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Rest:
    """How long to sleep."""

    accuracy: float
    seconds: float
    epochs: int


def rest(job: Rest) -> Generator[Epoch, None, Score]:
    """Sleep, an epoch at a time."""
    began = time.time()
    for number in range(1, job.epochs + 1):
        time.sleep(job.seconds / job.epochs)
        yield Epoch(number=number, metrics={"accuracy": job.accuracy * number / job.epochs, "train_loss": 1 / number})
    metrics = {"began": began, "ended": time.time(), "pid": float(os.getpid())}
    return Score(accuracy=job.accuracy, metrics=metrics, correct=bytes(IMAGES // 8), images=IMAGES)
