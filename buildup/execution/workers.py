"""The workers of a search as the dispatcher knows them: what each does, when it was last heard, and faults of hosts."""

import logging
import time
from collections import Counter
from collections.abc import Callable, Iterable, Set
from dataclasses import dataclass, field
from enum import Enum, auto
from math import inf
from pathlib import Path

from buildup.trials.event import Started, Update
from buildup.trials.outcome import Epoch
from buildup.trials.training import Training

log = logging.getLogger("buildup")

LEAST_PATIENCE = 60.0
"""Seconds without a report that are never remarkable."""
FIRST_PATIENCE = 600.0
"""Seconds for the first epoch, in which data are read and networks are compiled."""
PATIENCE = 10
"""A silence of so many times the longest epoch of a training is remarkable."""
LONGEST_WAIT = 60.0
"""Seconds without a running training after which a line says that the search waits for workers."""
MAX_HOST_FAULTS = 3
"""A host with so many faults gets no more trainings in this run, if other hosts have room for some."""
HOST_FAULT_SIGNS = (
    "uncorrectable ECC",
    "unspecified launch failure",
    "hardware stack error",
    "no CUDA-capable device",
    "busy or unavailable",
    "GPU is lost",
    "launch timed out",
    "CUDNN_STATUS_NOT_INITIALIZED",
    "CUBLAS_STATUS_NOT_INITIALIZED",
    "NCCL error",
    "DataLoader worker (pid",
    "(os error ",
    "CUDA driver",
    "NVIDIA driver",
    "CUDA unknown error",
    "CUDA error: unknown error",
    "CUDA error: initialization error",
    "CUDA error: system not yet initialized",
    "CUDA error: driver shutting down",
    "CUDA error: invalid device ordinal",
    "NVLink",
    "No CUDA GPUs are available",
    "not compiled with CUDA",
)
"""Parts of the messages of errors that a GPU, its driver, its installation, a killed process or a disk has caused.
safetensors raises no `OSError`, and ends its messages with the number of the system's error."""


class WorkerState(Enum):
    """What a worker does."""

    STARTING = auto()
    TRAINING = auto()
    STOPPING = auto()
    """It finishes the current epoch of a training that is no longer needed, or its process ends after an exception."""
    IDLE = auto()


@dataclass(frozen=True, slots=True)
class Leaving:
    """A worker was asked to end (SIGTERM), as when its node is drained. It does so after its epoch."""


BUSY = frozenset({WorkerState.STARTING, WorkerState.TRAINING})


@dataclass(slots=True, kw_only=True)
class WorkerSlot:
    """A worker with its current or latest attempt."""

    training: Training
    folder: Path
    fresh: bool
    """Whether a new worker is started for this attempt, rather than an idle one reused."""
    avoided: frozenset[str] = frozenset()
    """The nodes that the worker was not placed on."""
    since: float = field(default_factory=lambda: time.monotonic())
    state: WorkerState = WorkerState.STARTING
    started: Started | None = None
    leaving: bool = False
    """Whether it was asked to end."""
    heard: float = field(default_factory=lambda: time.monotonic())
    """When it last reported something of its training."""
    longest: float = 0.0
    """Seconds of its longest epoch so far."""
    _told: float = 0.0

    @property
    def node(self) -> str:
        """Ray's id of its machine; empty before it has started."""
        return self.started.node if self.started else ""

    @property
    def name(self) -> str:
        return f"{self.started.host} (pid {self.started.pid})" if self.started else "a worker that had not started"

    def hear(self, update: Update | Leaving) -> None:
        now = time.monotonic()
        if isinstance(update, Epoch):
            # Epochs of an earlier attempt come at once, with the seconds that they took then.
            self.longest = max(self.longest, now - self.heard, update.metrics.get("seconds", 0.0))
        self.heard, self._told = now, 0.0

    def remarkable_silence(self, now: float) -> float | None:
        """The seconds of a silence that is to be told now: once, and again whenever it has doubled; None otherwise."""
        silence = now - self.heard
        patience = max(LEAST_PATIENCE, PATIENCE * self.longest) if self.longest else FIRST_PATIENCE
        if silence < max(patience, 2 * self._told):
            return None
        self._told = silence
        return silence


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
                "waiting    no training has started for %g s: a worker is still starting, or Ray has no room for one. "
                "`ray status` shows who uses the cluster; Ctrl-C ends this run, to be resumed.",
                LONGEST_WAIT,
            )
        stalled = [slot for slot in busy if stall_timeout and now - slot.heard >= stall_timeout]
        for slot in stalled:
            log.warning("stalled    %s has reported nothing for %g s and is ended.", slot.name, stall_timeout)
            slot.heard = now
        return [slot.started for slot in stalled if slot.started]


def is_host_fault(error: BaseException) -> bool:
    """Whether an exception of a training belongs to the machine, not to what was trained.

    >>> is_host_fault(RuntimeError("CUDA error: uncorrectable ECC error encountered"))
    True
    >>> is_host_fault(OSError(5, "Input/output error")), is_host_fault(ZeroDivisionError())
    (True, False)
    """
    return isinstance(error, OSError) or any(sign in str(error) for sign in HOST_FAULT_SIGNS)


class Hosts:
    """The nodes that trainings had better be kept away from. They are known by Ray's ids."""

    def __init__(self, places: Callable[[Set[str]], float] | None = None) -> None:
        """`places` counts the trainings that fit on all nodes but some. Without it, there is one host."""
        self.excluded: frozenset[str] = frozenset()
        self.room: float = inf
        """How many trainings fit on the other nodes."""
        self.places = places or (lambda _: 0)
        self._faults: Counter[str] = Counter()

    def add_fault(self, worker: Started) -> None:
        """Count a fault of a worker's node. After too many, the node is excluded if others have room."""
        self._faults[worker.node] += 1
        excluded = self.excluded | {worker.node}
        if worker.node in self.excluded or self._faults[worker.node] < MAX_HOST_FAULTS:
            return
        if room := self.places(excluded):
            self.excluded, self.room = excluded, room
            log.warning(
                "host       %s failed %d times and gets no more trainings in this run. The others go on.",
                worker.host,
                MAX_HOST_FAULTS,
            )

    def avoidable(self, nodes: Set[str]) -> frozenset[str]:
        """The nodes that a training is kept away from: all of these, if it fits elsewhere, and the excluded ones."""
        wanted = self.excluded | nodes
        return wanted if wanted == self.excluded or self.places(wanted) else self.excluded
