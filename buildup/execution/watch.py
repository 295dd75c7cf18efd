"""Tells of workers that are silent, and of a search that waits for one."""

import logging
import time
from collections.abc import Iterable

from buildup.execution.worker_slot import WorkerSlot, WorkerState
from buildup.trials.event import Started

log = logging.getLogger("buildup")

LONGEST_WAIT = 60.0
"""Seconds without a running training after which a line says that the search waits for workers."""


class Watch:
    """What was told of silent workers so far."""

    def __init__(self) -> None:
        self._none_trained_since = time.monotonic()

    def look(self, slots: Iterable[WorkerSlot], waiting: bool, stall_timeout: float | None) -> list[Started]:
        """Log what is remarkable now; returns the workers that are to be ended, because they have stalled.

        Args:
            slots: The workers.
            waiting: Whether a training is requested.
            stall_timeout: Seconds without a report after which a worker is ended; None for never.
        """
        now = time.monotonic()
        busy = [slot for slot in slots if slot.started and slot.state is not WorkerState.IDLE]
        for slot in busy:
            if silence := slot.remarkable_silence(now):
                since = time.strftime("%H:%M:%S", time.localtime(time.time() - silence))
                log.warning(
                    "silent     %s has reported nothing of %s for %.0f s, since %s. Does it hang? "
                    "--stall-timeout SECONDS ends such a worker, and its training goes on from its checkpoint.",
                    *(slot.name, slot.training, silence, since),
                )
        if busy or not waiting:
            self._none_trained_since = now
        elif now - self._none_trained_since >= LONGEST_WAIT:
            self._none_trained_since = now
            log.warning(
                "waiting    no worker has started for %g s: Ray has no room for one just now. "
                "`ray status` shows who uses the cluster; Ctrl-C ends this run, to be resumed.",
                LONGEST_WAIT,
            )
        stalled = [slot for slot in busy if stall_timeout and now - slot.heard >= stall_timeout]
        for slot in stalled:
            log.warning("stalled    %s has reported nothing for %g s and is ended.", slot.name, stall_timeout)
            slot.heard = now
        return [slot.started for slot in stalled if slot.started]
