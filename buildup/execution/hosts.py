"""What is known of the hosts of a search: their faults, and which of them get no more trainings."""

import logging
from collections import Counter
from collections.abc import Callable, Set
from math import inf

from buildup.trials.event import Started

log = logging.getLogger("buildup")

MAX_HOST_FAULTS = 3
"""A host with so many faults gets no more trainings in this run, if other hosts have room for some."""
HOST_FAULT_SIGNS = (
    "uncorrectable ECC",
    "unspecified launch failure",
    "hardware stack error",
    "no CUDA-capable device",
    "CUDA-capable device(s) is/are busy or unavailable",
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
"""Parts of the messages of errors that a GPU, its driver or its installation has caused."""


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
        """Note a fault of a worker's node, which may be its last."""
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
