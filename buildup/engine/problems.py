"""Collects what is wrong with a request, so that all of it is said at once."""

from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager

from buildup.errors import RequestError, unknown
from buildup.statistics.judges import JUDGES


class Problems:
    """What is wrong so far. Its readers note a problem and go on with a default."""

    def __init__(self) -> None:
        self.found: list[str] = []

    @contextmanager
    def caught(self) -> Generator[None, None, None]:
        """Note the problems of a request instead of raising them."""
        try:
            yield
        except RequestError as error:
            self.found += [problem for problem in error.problems if problem not in self.found]

    def raise_any(self) -> None:
        """Raise what was found."""
        if self.found:
            raise RequestError(*self.found)

    def whole(self, flag: str, value: object, default: int, least: int = 1, most: int = 1_000_000) -> int:
        """A whole number within bounds, also as text; the default for None."""
        if value is None:
            return default
        number = _read(int, value)
        if number is not None and least <= number <= most:
            return int(number)
        self.found.append(f"{flag} {value}: a whole number from {least} to {most:,} is needed.")
        return default

    def number(self, flag: str, value: object, default: float, least: float = 0.0, most: float = 1e9) -> float:
        """A number within bounds, also as text; the default for None."""
        if value is None:
            return default
        number = _read(float, value)
        if number is not None and least <= number <= most:
            return number
        self.found.append(f"{flag} {value}: a number from {least:g} to {most:g} is needed.")
        return default

    def parsed(self, flag: str, parse: Callable[[str], float], value: str | float | None) -> float | None:
        """What a reader of its own makes of a value."""
        try:
            return None if value is None else parse(str(value))
        except ValueError as problem:
            self.found.append(f"{flag} {problem}")
            return None

    def choice(self, what: str, text: str | None, default: str, known: Sequence[str]) -> str:
        """One of a few words."""
        if text is None or text in known:
            return default if text is None else text
        self.found.append(unknown(what, text, known))
        return default

    def judge(self, asked: str | None, usual: str, seeds: int) -> str:
        """The judge asked for; otherwise the usual one, or `point` where one seed leaves nothing else."""
        named = asked or usual
        wish = self.choice("judge" if asked else "judge of the space", named, "likely", tuple(JUDGES))
        if wish != named:
            return wish
        needed = 1
        with self.caught():
            needed = JUDGES[wish].least_seeds
        if seeds >= needed:
            return wish
        if asked:
            self.found.append(
                f"--judge {wish} with --seeds {seeds}: one seed says nothing about chance; "
                f"use at least {needed} seeds, or --judge point."
            )
        return "point"


def _read(kind: type[int] | type[float], value: object) -> float | None:
    """The number that a value is or spells; None where it is none, or no whole one where one is needed."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        return kind(value) if isinstance(value, str) or kind(value) == value else None
    except (ValueError, OverflowError):
        return None
