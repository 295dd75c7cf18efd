"""What happens to a training, as the search is told of it."""

from dataclasses import dataclass

from buildup.trials.outcome import Epoch, Record
from buildup.trials.training import Training


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
