"""Keeps the folder of a search within `--disk-budget`, by removing files that neither `resume` nor `final` reads."""

import logging
import time
from contextlib import suppress
from dataclasses import dataclass

from buildup.engine.clean import finished_states, losers, size_of
from buildup.engine.loop import Observer
from buildup.engine.replay import View
from buildup.report.words import memory
from buildup.store.run_record import RunRecord
from buildup.trials.event import Event
from buildup.trials.history import History
from buildup.trials.outcome import Record

log = logging.getLogger("buildup")

INTERVAL = 60.0
"""Seconds between two looks at the folder while no training ends."""
SHARE = 0.02
"""Of the time of the search that the looks take, at most. That at thousands of trainings takes long."""
BYTES_PER_PARAMETER = 12
"""Of the files of a training, at least: its weights, and a checkpoint of them with the momentum of the optimizer."""


@dataclass(kw_only=True)
class BudgetObserver:
    """Looks at the size of a run when a training has ended, after another observer."""

    observer: Observer
    run: RunRecord
    _looked: float = float("-inf")
    _took: float = 0.0
    """Seconds of the last look."""
    _ended: bool = False
    """Whether a training has ended since."""
    _told: bool = False
    """Whether it was said that the budget can't be kept."""

    def see(self, view: View, history: History, event: Event | None) -> None:
        """Call the other observer, and remove what can go if the run is too large."""
        self.observer.see(view, history, event)
        self._ended |= event is not None and isinstance(event.update, Record)
        begun = time.monotonic()
        if begun - self._looked >= max(0.0 if self._ended else INTERVAL, self._took / SHARE):
            self.keep(view)
            self._looked = time.monotonic()
            self._took, self._ended = self._looked - begun, False

    def keep(self, view: View, *, stopped: bool = False) -> None:
        """Remove what can go, as far as the run is too large: first states that nothing reads, then losers.

        `stopped` says that no worker trains any more.
        """
        budget = self.run.settings.disk_budget
        if budget is None:
            return
        freed, size = 0, size_of(self.run.folder)
        for left in (*finished_states(self.run), *losers(self.run, view, stopped=stopped)) if size > budget else ():
            if size - freed <= budget:
                break
            if not left.size:  # another run has it, too
                continue
            with suppress(OSError):
                left.remove()
                freed += left.size
        if freed:
            log.info("disk       %s of files were removed that `resume` and `final` do not need", memory(freed))
        if size - freed > budget and not self._told:
            log.warning(
                f"warning: {self.run.folder} has {memory(size - freed)}, more than --disk-budget {memory(budget)}. "
                f"`resume` and `final` need what is left of it, so it stays."
            )
        self._told = size - freed > budget
