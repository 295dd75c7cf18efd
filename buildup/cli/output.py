"""What commands share: arguments, interrupts, and an answer as text or as one JSON document."""

import json
import logging
import os
import re
import shutil
import signal
import sys
import textwrap
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from typing import Annotated, Any, TextIO

from cyclopts import Parameter

RunName = Annotated[str, Parameter(help="A name in runs/, or a run's folder.")]
AsJson = Annotated[bool, Parameter(name="--json", help="Print one JSON document on stdout; messages go to stderr.")]
Verbose = Annotated[bool, Parameter(name=("--verbose", "-v"), help="Whole tables, and what Ray says.")]
Details = Annotated[bool, Parameter(name=("--verbose", "-v"), help="Whole tables, however wide.")]
From = Annotated[
    str | None, Parameter(name="--from", help="Take the settings of a run or a YAML file; other flags change them.")
]
Flags = Parameter(name="*")
"""Makes the fields of a settings dataclass the flags of a command."""


log = logging.getLogger("buildup")


def reading(what: str) -> None:
    """Say on stderr what is read, before torch and timm are loaded, which takes seconds."""
    if what:
        log.info("Reading %s ...", what)


def answer(text: str, values: Any, *, as_json: bool, code: int = 0) -> int:
    """Print an answer, and give back its exit code."""
    print(json.dumps(values, indent=2, ensure_ascii=False) if as_json else for_terminal(text, sys.stdout))
    return code


def table_width(*, verbose: bool) -> int | None:
    """How wide tables may be: as the terminal, or 80 columns where there is none; None for whole tables."""
    return None if verbose else shutil.get_terminal_size().columns


STYLES = {
    r"keep(?=\s|$)|^Proven.*": "34;1",
    r"drop(?=\s|$)": "33",
    r"^warning:|^buildup:|FAILS": "31;1",
    r"^Next:": "1",
}
"""What is coloured in a terminal: kept blue and dropped yellow, as on the page. The words say it without."""


LETTERS = re.compile(r"(?<!\S)[A-Z]+(?:\|[A-Z]+)+(?!\S)|(?<=  )[A-Z[\]]+$", re.MULTILINE)
"""A layout, or the letters of a stage at the end of a line."""


PASTED = re.compile(r"\bbuildup [a-z]")
"""A line with a command stays in one piece."""


def for_terminal(text: str, stream: TextIO) -> str:
    """A text as a stream shows it: in a terminal, sentences end at its last column, and words have colours."""
    return coloured(folded(text, shutil.get_terminal_size().columns), stream) if stream.isatty() else text


def folded(text: str, width: int) -> str:
    """Sentences on lines of a width. Rows of a table and commands stay as they are.

    >>> print(folded("a row  of a table\\none two three", 9))
    a row  of a table
    one two
    three
    """
    lines = []
    for line in text.split("\n"):
        sentence = line.strip()
        if len(line) <= width or "  " in sentence or PASTED.search(line):
            lines.append(line)
            continue
        indent = line[: len(line) - len(line.lstrip())]
        lines += textwrap.wrap(
            sentence,
            width,
            initial_indent=indent,
            subsequent_indent=indent,
            break_long_words=False,
            break_on_hyphens=False,
        )
    return "\n".join(lines)


def coloured(text: str, stream: TextIO) -> str:
    """A text with colours if the stream is a terminal that shows them, and the user does not forbid them."""
    if os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb" or not stream.isatty():
        return text
    for pattern, colour in STYLES.items():
        text = re.sub(pattern, f"\x1b[{colour}m\\g<0>\x1b[0m", text, flags=re.MULTILINE)
    changed = re.compile(r"\[[A-Z]+\]|[^C|[\]]+")  # what is tried, and what is no longer the base's own
    return LETTERS.sub(lambda found: changed.sub("\x1b[34;1m\\g<0>\x1b[0m", found[0]), text)


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


@contextmanager
def using_ray(message: Callable[[], str] = lambda: "Interrupted.") -> Iterator[None]:
    """As `interruptible`, for what starts Ray, which prints on stdout whatever its settings: it goes to stderr here.

    The answer may have to be the only thing on stdout.
    """
    with interruptible(message), redirect_stdout(sys.stderr):
        yield
