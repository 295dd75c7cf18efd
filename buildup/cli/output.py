"""What commands share: arguments, interrupts, and an answer as text or as one JSON document."""

import json
import logging
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Annotated, Any

from cyclopts import Parameter

RunName = Annotated[str, Parameter(help="A name in runs/, or a run's folder.")]
AsJson = Annotated[bool, Parameter(name="--json", help="Print one JSON document on stdout; messages go to stderr.")]
Verbose = Annotated[bool, Parameter(name="--verbose", help="Show what Ray says, too.")]
Flags = Parameter(name="*")
"""Makes the fields of a settings dataclass the flags of a command."""


log = logging.getLogger("buildup")


def reading(what: str) -> None:
    """Say on stderr what is read, before torch and timm are loaded, which takes seconds."""
    if what:
        log.info("Reading %s ...", what)


def answer(text: str, values: Any, *, as_json: bool, code: int = 0) -> int:
    """Print an answer, and give back its exit code."""
    print(json.dumps(values, indent=2, ensure_ascii=False) if as_json else text)
    return code


@contextmanager
def interruptible(message: Callable[[], str] = lambda: "Interrupted.") -> Iterator[None]:
    """Turn Ctrl-C, a request to terminate and a lost terminal into KeyboardInterrupt with a message for the user.

    A shell that starts a command in its background ignores Ctrl-C; this handler still gets it. `nohup` ignores the
    loss of the terminal, and that stays so.
    """
    numbers = [signal.SIGINT, signal.SIGTERM]
    if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        numbers.append(signal.SIGHUP)
    earlier = {number: signal.signal(number, signal.default_int_handler) for number in numbers}
    try:
        yield
    except KeyboardInterrupt:
        raise KeyboardInterrupt(message()) from None
    finally:
        for number, handler in earlier.items():
            signal.signal(number, handler)
