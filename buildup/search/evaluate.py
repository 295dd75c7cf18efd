"""What the search asks of those who train: an ordered set of wanted trainings in, events out."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

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


class Evaluator(Protocol):
    """Trains what is wanted. Ray's workers are one (`workers.py`), a table of scores is another (`table.py`)."""

    @property
    def workers(self) -> int:
        """How many trainings can run side by side."""
        ...

    def want(self, wanted: Sequence[Training]) -> None:
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
