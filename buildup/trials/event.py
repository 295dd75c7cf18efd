"""What happens to a training: workers report updates, and the search receives them as events."""

from dataclasses import dataclass

from buildup.trials.outcome import Epoch, Record
from buildup.trials.training import Training


@dataclass(frozen=True, slots=True, kw_only=True)
class Started:
    """A worker began an attempt at a training."""

    attempt: int
    host: str
    pid: int
    node: str = ""
    """Ray's id of the machine; host names may repeat."""

    @property
    def worker(self) -> str:
        """Host and process id, as in `node1:4711`."""
        return f"{self.host}:{self.pid}"


Update = Started | Epoch | Record
"""An attempt began, an epoch ended, or the training ended."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """An update of a training."""

    training: Training
    update: Update
