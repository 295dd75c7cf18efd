"""What may be searched: a frozen value that checks itself."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from buildup.errors import SpaceError

STEMS = ("auto", "small", "base")
JUDGES = ("likely", "proven", "point")


@dataclass(frozen=True, slots=True, kw_only=True)
class StageSpace:
    """What may be searched in one stage; what is left out comes from the space or from the base."""

    max_replaced: int | None = None
    """At most so many blocks of this stage are replaced; all that can be where left out."""
    blocks: int | None = None
    """The stage has so many blocks; those that the base lacks are added at its end."""
    heads: int | None = None
    window: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchSpace:
    """What may stand where, and how the rule walks."""

    name: str
    description: str
    kind: Literal["M"] = "M"
    """The letter of the kind that replaces Conv blocks."""
    heads: int = 3
    """Heads in the first stage; each later stage has twice as many (paper.md 3, rule c)."""
    head_size: int = 64
    window: int | Literal["auto"] = "auto"
    """Side of the attention windows; `auto` is 7 where it divides the map, else its largest divisor up to 7."""
    stem: Literal["auto", "small", "base"] = "auto"
    """`small` puts a 3x3 stem of stride 1 without pooling; `auto` does so at inputs of up to 64 px."""
    step: int = 2
    """Distance between two tries in a stage; 2 alternates Conv and attention."""
    look_ahead: int = 0
    """How many more blocks a stage may try on top of a dropped one; the paper did 1."""
    judge: Literal["likely", "proven", "point"] = "likely"
    stages: tuple[StageSpace, ...] | None = None

    def __post_init__(self) -> None:
        if problems := list(self._problems()):
            raise SpaceError(*problems)

    def _problems(self) -> Iterator[str]:
        for name, choices in (("kind", ("M",)), ("stem", STEMS), ("judge", JUDGES)):
            if getattr(self, name) not in choices:
                yield f"{name} is {getattr(self, name)!r}; it must be one of {', '.join(choices)}."
        for name, least in (("heads", 1), ("head_size", 1), ("step", 1), ("look_ahead", 0)):
            if problem := _count(getattr(self, name), least):
                yield f"{name} {problem}"
        if self.window != "auto" and (problem := _count(self.window, 1)):
            yield f"window {problem.removesuffix('.')}, or 'auto'."
        for number, stage in enumerate(self.stages or ()):
            for name, least in (("max_replaced", 0), ("blocks", 1), ("heads", 1), ("window", 1)):
                value = getattr(stage, name)
                if value is not None and (problem := _count(value, least)):
                    yield f"stages[{number}].{name} {problem}"


def _count(value: object, least: int) -> str | None:
    if isinstance(value, int) and not isinstance(value, bool) and least <= value <= 4096:
        return None
    return f"is {value!r}; a whole number of at least {least} is needed."
