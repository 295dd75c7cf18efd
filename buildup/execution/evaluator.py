"""The evaluator protocol: an ordered list of requested trainings goes in, events come out."""

from collections.abc import Sequence
from typing import Protocol

from buildup.errors import SearchError
from buildup.trials.event import Ended, Event
from buildup.trials.outcome import Failure
from buildup.trials.training import Training


class Evaluator(Protocol):
    """Trains what is requested: Ray Tune's workers (`ray_tune.py`) or a table of scores (`simulated.py`)."""

    @property
    def workers(self) -> int:
        """How many trainings run side by side."""
        ...

    def request(self, trainings: Sequence[Training]) -> None:
        """Start the first of these as workers become free, in this order, and stop what runs but is not listed.

        A training that runs goes on undisturbed for as long as it is listed. One that is stopped this way gives
        `Ended` with the reason `unneeded`. A training that has ended is not started again.
        """
        ...

    def next_event(self, timeout: float | None = None) -> Event | None:
        """The next event, waiting for it up to `timeout` seconds; None when nothing happened."""
        ...

    def close(self) -> None:
        """Stop all trainings. They keep their checkpoints."""
        ...


def raise_if_infrastructure(event: Event) -> Event:
    """Pass an event on, unless it tells of a failure that says nothing about the candidate."""
    if isinstance(event, Ended):
        outcome = event.record.outcome
        if isinstance(outcome, Failure) and outcome.reason.is_infrastructure:
            raise SearchError(
                f"{outcome.message} No decision was made on it. Once that is mended, `resume` (or the same `final`) "
                f"continues from there."
            )
    return event
