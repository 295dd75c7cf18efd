"""Everything that can go wrong through no fault of the program, as one tree.

BuildupError
├── RequestError      what was asked for is wrong; nothing was started or written (exit 2)
│   ├── SpaceError    a search space file
│   ├── LayoutError   a layout string or an edit that does not fit its network
│   ├── KindError     a block kind that cannot be registered
│   ├── BaseError     a model that cannot be a base
│   ├── RecipeError   a recipe file
│   ├── DataError     a dataset that is missing, broken or not what was asked for
│   ├── TableError    a table of scores
│   ├── RunError      a run folder that is missing, taken, foreign or damaged
│   │   └── RemoteError   its part in a storage, which can't be read or written
│   └── ResourceError a device, a worker, a cluster or a storage that cannot be had
└── SearchError       it was started, and it failed (exit 1)
    ├── WeakBase      the base did not learn, so no verdict on top of it would mean anything
    └── ExportError   what was written does not compute what was trained
"""

import shlex
from collections.abc import Iterable, Sequence
from difflib import get_close_matches


class BuildupError(Exception):
    """The root: its text is one paragraph for a person."""

    exit_code = 1


class RequestError(BuildupError):
    """A wrong request, with every problem that was found in it."""

    exit_code = 2

    def __init__(self, *problems: str) -> None:
        assert problems
        super().__init__("\n".join(problems))
        self.problems = problems


class SpaceError(RequestError):
    """A search space file that cannot be used."""


class LayoutError(RequestError):
    """A layout or an edit that does not fit its network."""


class KindError(RequestError):
    """A block kind that cannot be registered."""


class BaseError(RequestError):
    """A model that cannot be a base."""


class RecipeError(RequestError):
    """A recipe that cannot be used."""


class DataError(RequestError):
    """A dataset that is missing, broken, or not what was asked for."""


class TableError(RequestError):
    """A table of scores that cannot be used."""


class RunError(RequestError):
    """A run folder that is missing, taken, foreign or damaged."""


class RemoteError(RunError, OSError):
    """A folder in a storage that can't be read or written. Like errors of disks, it belongs to a machine."""


class ResourceError(RequestError):
    """A device, a worker, a cluster or a storage that cannot be had."""


class SearchError(BuildupError):
    """A search that was started and failed."""


class WeakBase(SearchError):
    """A base that did not learn: every change on top of it would look good."""


class ExportError(SearchError):
    """An exported network that does not compute what was trained."""


def unknown(what: str, found: str, known: Iterable[str], *, shown: int = 12, listed_by: str = "") -> str:
    """Say that a name is not known, and which ones are meant or exist. Upper and lower case count as the same.

    `listed_by` is a command that tells of the names where there are more than `shown`.

    >>> unknown("recipe", "Quikc", ["quick", "paper"])
    "unknown recipe 'Quikc': did you mean 'quick'? Known: paper, quick."
    """
    names = sorted(known)
    lower = {name.lower(): name for name in names}
    close = [lower[name] for name in get_close_matches(found.lower(), lower, n=3, cutoff=0.6)]
    hint = f" did you mean {' or '.join(map(repr, close))}?" if close else ""
    if listed_by and len(names) > shown:
        return f"unknown {what} {found!r}:{hint} See {listed_by}."
    listed = ", ".join(names[:shown]) + (f", ... ({len(names)} in all)" if len(names) > shown else "")
    return f"unknown {what} {found!r}:{hint} Known: {listed}."


def counted(number: int, noun: str) -> str:
    """A number with its noun in the singular or plural.

    >>> counted(1, "training"), counted(1200, "image"), counted(2, "class")
    ('1 training', '1,200 images', '2 classes')
    """
    plural = f"{noun}es" if noun.endswith("ss") else f"{noun}s"
    return f"{number:,} {noun if number == 1 else plural}"


def percent(share: float) -> str:
    """A share with four digits, or as many as tell it from all.

    >>> percent(0.9), percent(0.9989), percent(0.99998), percent(1.0)
    ('90 %', '99.89 %', '99.998 %', '100 %')
    """
    texts = (f"{100 * share:.{digits}g} %" for digits in range(4, 12))
    return next((text for text in texts if text != "100 %"), "100 %")


def some(names: Sequence[str]) -> str:
    """Up to five names, for a message.

    >>> some("abcdef"), some("ab")
    ('a, b, c, d, e and more', 'a, b')
    """
    return f"{', '.join(names[:5])}{' and more' if len(names) > 5 else ''}"


def command(*words: object) -> str:
    """A command of ours, to be pasted into a shell.

    >>> command("resume", "runs/my run")
    "buildup resume 'runs/my run'"
    """
    return shlex.join(["buildup", *map(str, words)])
