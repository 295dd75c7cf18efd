"""A server or a disk that does not answer for a while is asked again for minutes, and people are told of it."""

import logging
import time
from collections.abc import Callable
from typing import TypeVar

from buildup.errors import RemoteError

log = logging.getLogger("buildup")

Value = TypeVar("Value")

LIMIT = 900.0
"""Seconds for which it is asked again."""
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 20.0
"""Seconds between two tries, at first and at most."""


class Outage:
    """What is known of one that may be away: since when, and when it is to be asked again."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._since: float | None = None
        self._next = 0.0
        self._pause = FIRST_PAUSE
        self.cause = ""
        """Why it did not answer the last time."""

    @property
    def is_on(self) -> bool:
        return self._since is not None

    @property
    def is_due(self) -> bool:
        return time.monotonic() >= self._next

    @property
    def is_too_long(self) -> bool:
        return self._since is not None and time.monotonic() - self._since > LIMIT

    def goes_on(self, cause: str) -> None:
        """Note that it did not answer. The first time, a warning is logged."""
        self.cause = cause
        if self._since is None:
            self._since, self._pause = time.monotonic(), FIRST_PAUSE
            said = cause.removeprefix(f"{self._name}: ").rstrip(".")
            log.warning(
                f"warning: {self._name} does not answer ({said}). Trainings go on; it is tried again for "
                f"{LIMIT / 60:g} minutes."
            )
        else:
            self._pause = min(2 * self._pause, LONGEST_PAUSE)
        self._next = time.monotonic() + self._pause

    def wait(self) -> None:
        time.sleep(max(0.0, self._next - time.monotonic()))

    def end(self, ask_again: float = 0.0) -> None:
        """Note that it has answered. It may be asked again after so many seconds."""
        if self._since is not None:
            log.info(f"{self._name} answers again after {time.monotonic() - self._since:.0f} s.")
        self._since, self._next = None, time.monotonic() + ask_again


def outlast(name: object, call: Callable[[], Value]) -> Value:
    """Call a function that uses a storage, again and again while the storage does not answer, until `LIMIT`."""
    outage = Outage(str(name))
    while True:
        try:
            value = call()
        except RemoteError as problem:
            outage.goes_on(str(problem))
            if outage.is_too_long:
                raise
            outage.wait()
        else:
            outage.end()
            return value
