"""Check settings, and collect all problems of a request before raising an error."""

import re
from collections.abc import Callable, Collection, Generator, Sequence
from contextlib import contextmanager
from decimal import Decimal
from numbers import Real
from typing import ParamSpec, TypeVar

from buildup.errors import RequestError, unknown
from buildup.settings import BOUNDS, parse_duration
from buildup.statistics.judges import JUDGES

P = ParamSpec("P")
D = TypeVar("D")
V = TypeVar("V")


class Problems:
    """The problems found so far. Its methods check one setting, note its problem and return a default."""

    def __init__(self) -> None:
        self.found: list[str] = []

    @contextmanager
    def caught(self) -> Generator[None, None, None]:
        """Note the problems of a `RequestError` that is raised inside, and continue after the block."""
        try:
            yield
        except RequestError as error:
            self.found += [problem for problem in error.problems if problem not in self.found]

    def checked(self, default: D, check: Callable[P, V], *args: P.args, **kwargs: P.kwargs) -> D | V:
        """The result of a check, or the default if it raises a `RequestError`, whose problems are noted."""
        try:
            return check(*args, **kwargs)
        except RequestError as error:
            self.found += [problem for problem in error.problems if problem not in self.found]
            return default

    def repeated(self, names: Sequence[str]) -> None:
        self.found += [f"{name} is named twice." for name in sorted(set(names)) if names.count(name) > 1]

    def raise_any(self) -> None:
        if self.found:
            raise RequestError(*self.found)

    def whole(self, flag: str, value: object, default: int, least: int | None = None, most: int | None = None) -> int:
        """Check a whole number within bounds, usually those of the flag. None is the default.

        It may be text, also such as 500k, 1.5M or 2G.
        """
        if value is None:
            return default
        usual = _bounds(flag)
        least, most = usual[0] if least is None else least, usual[1] if most is None else most
        number = _read(int, _unscaled(value))
        if number is not None and least <= number <= most:
            return int(number)
        self.found.append(f"{flag} {value}: a whole number from {least} to {most:,} is needed.")
        return default

    def size(self, flag: str, value: object) -> int | None:
        """Check a number of bytes, which may be text such as 500M, 20G or 20 GB."""
        if value is None:
            return None
        found = re.fullmatch(r"([\d.]+)\s*([kmgt]?)(i?b)?", str(value).strip(), re.IGNORECASE)
        unit = found[2].upper().replace("K", "k") if found else ""
        number = _read(int, _unscaled(f"{found[1]}{unit}")) if found else None
        if number is None or not 1 <= number <= _bounds(flag)[1]:
            self.found.append(f"{flag} {value}: a number of bytes is needed, such as 500M or 20G.")
            return None
        return int(number)

    def number(self, flag: str, value: object, default: float, least: float = 0.0, most: float | None = None) -> float:
        """Check a number within bounds, usually up to that of the flag. It may be text; None is the default."""
        if value is None:
            return default
        most = _bounds(flag)[1] if most is None else most
        number = _read(float, value)
        if number is not None and least <= number <= most:
            return number
        self.found.append(f"{flag} {value}: a number from {least:g} to {most:g} is needed.")
        return default

    def seconds(self, flag: str, value: object) -> float | None:
        """Check a number of seconds, at least one, which may be text."""
        return None if value is None else self.number(flag, value, 1.0, least=1.0)

    def duration(self, flag: str, value: str | float | None) -> float | None:
        """The seconds of a duration such as 2h30m, which may be a number of seconds."""
        try:
            found = None if value is None else parse_duration(str(value))
        except ValueError as problem:
            self.found.append(f"{flag} {problem}")
            return None
        if found and found > _bounds(flag)[1]:
            self.found.append(f"{flag} {value}: at most {_bounds(flag)[1]:,} seconds are possible.")
        return found

    def choice(self, what: str, text: str | None, default: str, known: Collection[str]) -> str:
        """Check that a text is one of the known ones. None stands for the default."""
        if text is None or text in known:
            return default if text is None else text
        self.found.append(unknown(what, text, known))
        return default

    def judge(self, asked: str | None, usual: str, seeds: int) -> str:
        """Check the name of a judge. Without one, take the usual one, or `point` if it needs more seeds."""
        chosen = asked or usual
        name = self.choice("judge" if asked else "judge of the space", chosen, "likely", JUDGES)
        if name != chosen:
            return name
        needed = 1
        with self.caught():
            needed = JUDGES[name].least_seeds
        if seeds >= needed:
            return name
        if asked:
            self.found.append(
                f"--judge {name} with --seeds {seeds}: "
                f"{'one seed says nothing about chance' if seeds == 1 else 'that is too few'}; "
                f"use at least {needed} seeds, or --judge point."
            )
        return "point"


def _bounds(flag: str) -> tuple[int, int]:
    return BOUNDS.get(flag.removeprefix("--").replace("-", "_"), (1, 1_000_000))


def _unscaled(value: object) -> object:
    """A number with k, M, G or T behind it without that; anything else as it is.

    >>> _unscaled("1.5M"), _unscaled("2k"), _unscaled("many")
    (1500000, 2000, 'many')
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([kMGT])", value.strip()) if isinstance(value, str) else None
    if not found:
        return value
    number = Decimal(found[1]) * {"k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}[found[2]]
    return int(number) if number == int(number) else value


def _read(kind: type[int] | type[float], value: object) -> float | None:
    """The number of a value or a text; None if it is no such number."""
    if isinstance(value, bool) or not isinstance(value, Real | str):  # numbers of numpy are real, too
        return None
    try:
        number = kind(value)  # type: ignore[arg-type]
        return number if isinstance(value, str) or number == value else None
    except (ValueError, OverflowError):
        return None
