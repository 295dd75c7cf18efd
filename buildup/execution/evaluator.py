"""The evaluator protocol: an ordered list of requested trainings goes in, events come out."""

from collections.abc import Sequence
from math import floor, inf
from typing import Protocol

from buildup.trials.event import Event
from buildup.trials.training import Training


class Evaluator(Protocol):
    """Trains what is requested: Ray Tune's workers (`ray_tune.py`) or a table of scores (`simulated.py`)."""

    @property
    def workers(self) -> int:
        """How many trainings run side by side."""

    def request(self, trainings: Sequence[Training]) -> None:
        """Start the first of these as workers become free, in this order, and stop what runs but is not listed.

        A running training continues for as long as it is listed. One that is stopped this way ends with a failure for
        the reason `unneeded`. A training that has ended is not started again.
        """

    def next_event(self, timeout: float | None = None) -> Event | None:
        """The next event, waiting for it up to `timeout` seconds; None when nothing happened."""

    def close(self) -> None:
        """Stop all trainings. They keep their checkpoints."""


def room(devices: float, share: float) -> float:
    """How many trainings fit on a machine with so many devices. A share of a GPU never spans two GPUs.

    >>> room(2, 0.4), room(3, 2), room(4, 0)
    (4, 1, inf)
    """
    if not share:
        return inf
    return floor(devices) * floor(1 / share + 1e-9) if share < 1 else floor(devices / share + 1e-9)
