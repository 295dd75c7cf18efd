"""An evaluator that ends one training after the other in this process."""

from abc import ABC, abstractmethod
from collections.abc import Sequence

from buildup.trials.event import Event
from buildup.trials.outcome import Record
from buildup.trials.training import Training


class OneByOne(ABC):
    """What the loop of a search needs of an evaluator; how a training ends is left to derived classes."""

    workers: int = 1
    _requested: Sequence[Training] = ()

    @abstractmethod
    def end(self, training: Training) -> Record:
        """The final record of a training."""

    def request(self, trainings: Sequence[Training]) -> None:
        """Nothing runs between two calls, so there is nothing to stop."""
        self._requested = trainings

    def next_event(self, timeout: float | None = None) -> Event | None:
        """The end of the first training that is requested."""
        if not self._requested:
            return None
        training = self._requested[0]
        return Event(training=training, update=self.end(training))

    def close(self) -> None:  # noqa: B027, nothing must be added
        """Nothing is held."""
