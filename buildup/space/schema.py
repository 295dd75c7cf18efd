"""What may be searched: a frozen value that checks itself.

>>> SearchSpace(name="mine", description="", kind="K", window=7)
Traceback (most recent call last):
buildup.errors.SpaceError: window is 7, but kind K has no window. Leave it out.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, get_args, get_origin

from buildup.errors import SpaceError
from buildup.graph.kinds import Conv, known_kinds, settings_of

STEMS = ("auto", "small", "base")
ORDERS = ("last-first", "first-last")
_EXAMPLES = {"kind": "M, G", "window": "4, 7", "heads": "3, 6", "head_size": "32, 64"}
FITTED = ("width",)
"""Settings that a space has no say in: they follow from the block that is replaced."""


PLACED = ("heads", "head_size", "window")
"""Settings that depend on the stage."""
OWN = (*PLACED, "kernel", "tables", "borders", "temperature")
"""The settings of kinds that are fields of a space."""


def settable(letter: str) -> tuple[str, ...]:
    """The settings of a kind that a space may set."""
    return tuple(name for name in settings_of(known_kinds()[letter]) if name not in FITTED)


@dataclass(frozen=True, slots=True, kw_only=True)
class StageSpace:
    """What may be searched in one stage; what is left out comes from the space or from the base."""

    kind: str | None = None
    max_replaced: int | None = None
    """At most so many blocks of this stage are tried; all that can be where left out."""
    blocks: int | None = None
    """The stage has so many blocks before the search; those that the base lacks are added at its end."""
    heads: int | None = None
    window: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Tuning:
    """Settings that are searched at a place where a block was kept. Every combination that fits there is a variant."""

    kind: tuple[str, ...] = ()
    window: tuple[int, ...] = ()
    heads: tuple[int, ...] = ()
    head_size: tuple[int, ...] = ()
    tries: int = 8
    """At most so many variants are tried at a place: all in their order or, of more, those that Optuna's TPE says."""

    @property
    def settings(self) -> dict[str, tuple[int, ...]]:
        """The settings of kinds that are searched, with their values."""
        named = {"window": self.window, "heads": self.heads, "head_size": self.head_size}
        return {name: values for name, values in named.items() if values}

    def problems(self, placed: tuple[str, ...]) -> Iterator[str]:
        """What is wrong with it in a space that places these kinds."""
        tunable = [letter for letter in known_kinds() if letter != Conv.letter]
        kinds = tuple(map(str, self.kind)) if isinstance(self.kind, tuple) and self.kind else placed
        if problem := _count(self.tries, 1):
            yield f"tune.tries {problem}"
        lists: dict[str, object] = {"kind": self.kind, "window": self.window}
        lists |= {"heads": self.heads, "head_size": self.head_size}
        for name, values in lists.items():
            if not isinstance(values, tuple) or len(set(map(repr, values))) < len(values):
                found = list(values) if isinstance(values, tuple) else repr(values)
                yield f"tune.{name} is {found}; a list of different values is needed, such as [{_EXAMPLES[name]}]."
                continue
            for value in values:
                if name == "kind" and value not in tunable:
                    yield f"tune.kind has {value!r}; it may have {', '.join(tunable)}."
                if name != "kind" and (problem := _count(value, 1)):
                    yield f"tune.{name} has {value!r}; {problem.partition('; ')[2]}"
            if (
                name != "kind"
                and values
                and not any(kind in known_kinds() and name in settable(kind) for kind in kinds)
            ):
                others = [kind for kind in placed if name in settable(kind)] if self.kind else []
                more = f" Give tune.kind {others[0]}, too, or leave it out." if others else " Leave it out."
                yield f"tune.{name} is {list(values)}, but {_have(kinds)} no {name}.{more}"
        if kinds == placed and self.kind and len(placed) == 1 and not self.settings:
            yield f"tune.kind is {list(kinds)}, which is what the rule puts there. Name another kind, or leave it out."
        if not any(lists.values()):
            yield "tune names nothing to search. Give lists of values, such as window: [4, 7], or leave it out."


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchSpace:
    """What may stand where, and how the rule walks."""

    name: str
    description: str
    kind: str = "M"
    """The letter of the kind that is tried."""
    place: Literal["replace", "end"] = "replace"
    """`replace` puts it in place of the base's blocks, `end` adds one block of it at the end of each stage."""
    heads: int | Literal["auto"] = "auto"
    """Heads in the fourth stage from the end; each later stage has twice as many (paper.md 3, rule c).

    `auto` is 3, and where the replaced block is not the paper's, what fits its size.
    """
    head_size: int | Literal["auto"] = "auto"
    """`auto` is 64 in the paper's block, and what fits the size of the replaced block elsewhere."""
    window: int | Literal["auto"] = "auto"
    """Side of the attention windows; `auto` is 7 where it divides the map, else its largest divisor up to 7."""
    kernel: int | None = None
    """Side of what one place sees: odd for K, any for S. Here and below, left out means the kind's usual value."""
    tables: Literal["shared", "heads"] | None = None
    borders: Literal["masked", "attended", "replicate", "grow"] | None = None
    temperature: int | None = None
    settings: tuple[tuple[str, int | str], ...] = ()
    """Those of kinds from other packages that have no field here; in a file they stand beside the others."""
    stem: Literal["auto", "small", "base"] = "auto"
    """`small` puts a 3x3 stem of stride 1 without pooling; `auto` does so at inputs of up to 64 px."""
    order: Literal["last-first", "first-last"] | tuple[int, ...] = "last-first"
    """Which stage comes after which: the paper's way, its opposite, or all stages by number, counted from 1."""
    step: int = 2
    """Distance between two tries in a stage; 2 alternates Conv and attention."""
    look_ahead: int = 0
    """How many more blocks a stage may try on top of a dropped one; the paper did 1."""
    failures: int = 1
    """So many failed tries end a stage. A look-ahead belongs to the try that it saves, or fails with it."""
    min_gain: float = 0.0
    """A candidate must gain more than this over its parent, in the unit of what is judged."""
    judge: str = "likely"
    """One of `statistics/judges.py` or of another package; who judges by it checks the name."""
    stages: tuple[StageSpace, ...] | None = None
    tune: Tuning | None = None
    """What is searched at each place where a block was kept, before the rule goes on."""

    def __post_init__(self) -> None:
        if problems := [
            *self._values(),
            *self._stage_values(),
            *(self.tune.problems(self.placed) if self.tune else ()),
        ]:
            raise SpaceError(*problems)
        if problems := [*self._combinations()]:  # of values that are right by themselves
            raise SpaceError(*problems)

    @property
    def placed(self) -> tuple[str, ...]:
        """The letters of all kinds that the rule puts into some stage."""
        return tuple(dict.fromkeys(stage.kind or self.kind for stage in self.stages or (StageSpace(),)))

    @property
    def kinds(self) -> tuple[str, ...]:
        """The letters of all kinds that are tried, those that take a kept block's place included."""
        return tuple(dict.fromkeys([*self.placed, *(self.tune.kind if self.tune else ())]))

    @property
    def steering(self) -> tuple[str, ...]:
        """What was set that steers the build-up rule alone, and no other strategy."""
        usual = {"order": "last-first", "look_ahead": 0, "failures": 1, "tune": None}
        return tuple(name for name, value in usual.items() if getattr(self, name) != value)

    def stage_order(self, stages: int) -> tuple[int, ...]:
        """The places of the stages in a row of so many, in the order of the rule.

        >>> SearchSpace(name="s", description="").stage_order(4)
        (3, 2, 1, 0)
        """
        if isinstance(self.order, tuple):
            return tuple(number - 1 for number in self.order)
        return tuple(range(stages)) if self.order == "first-last" else tuple(reversed(range(stages)))

    def stage(self, number: int) -> StageSpace:
        """What is asked of one stage."""
        return self.stages[number] if self.stages else StageSpace()

    def given(self, letter: str) -> dict[str, int | str]:
        """What was set for a kind, besides the settings that depend on the stage."""
        names = [name for name in settable(letter) if name not in PLACED] if letter in self.kinds else []
        return {name: value for name in names if (value := self.asked(name)) is not None}

    def asked(self, name: str) -> Any:
        """What was asked for a setting of kinds; None where nothing was."""
        return getattr(self, name) if name in OWN else dict(self.settings).get(name)

    def _values(self) -> Iterator[str]:
        known = {"kind": tuple(known_kinds()), "place": ("replace", "end"), "stem": STEMS}
        for name, choices in known.items():
            if getattr(self, name) not in choices:
                yield f"{name} is {getattr(self, name)!r}; it must be one of {', '.join(choices)}."
        judge: object = self.judge
        if not isinstance(judge, str):
            yield f"judge is {judge!r}; the name of a judge is needed."
        if problem := _order_problem(self.order):
            yield f"order is {problem}"
        if (
            not isinstance(self.min_gain, int | float)
            or isinstance(self.min_gain, bool)
            or not 0 <= self.min_gain <= 100
        ):
            yield f"min_gain is {self.min_gain!r}; a number from 0 to 100 is needed."
        for name, least in (("step", 1), ("look_ahead", 0), ("failures", 1)):
            if problem := _count(getattr(self, name), least):
                yield f"{name} {problem}"
        for name in ("heads", "head_size", "window"):
            if getattr(self, name) != "auto" and (problem := _count(getattr(self, name), 1)):
                yield f"{name} {problem.removesuffix('.')}, or 'auto'."
        for name in ("kernel", "temperature"):
            if getattr(self, name) is not None and (problem := _count(getattr(self, name), 1)):
                yield f"{name} {problem}"
        for name in ("tables", "borders"):
            hints = [settings_of(kind).get(name) for kind in known_kinds().values()]
            choices = tuple(word for hint in hints if get_origin(hint) is Literal for word in get_args(hint))
            if getattr(self, name) is not None and getattr(self, name) not in choices:
                yield f"{name} is {getattr(self, name)!r}; it must be one of {', '.join(choices)}."

    def _stage_values(self) -> Iterator[str]:
        for number, stage in enumerate(self.stages or ()):
            if stage.kind is not None and stage.kind not in tuple(known_kinds()):
                yield f"stages[{number}].kind is {stage.kind!r}; it must be one of {', '.join(known_kinds())}."
            for name, least in (("max_replaced", 0), ("blocks", 1), ("heads", 1), ("window", 1)):
                value = getattr(stage, name)
                if value is not None and (problem := _count(value, least)):
                    yield f"stages[{number}].{name} {problem}"

    def _combinations(self) -> Iterator[str]:
        if self.place == "replace" and Conv.letter in self.placed:
            yield (
                "kind C in place of the base's own blocks changes nothing. Use place: end, which adds one more block "
                "to a stage, or max_replaced: 0 for a stage that is left alone."
            )
        for name, usual in (("step", 2), ("look_ahead", 0), ("failures", 1)) if self.place == "end" else ():
            if getattr(self, name) != usual:
                yield f"{name} is {getattr(self, name)}, but with place: end every stage has one try. Leave it out."
        for name in (*OWN, *dict(self.settings)):
            value = self.asked(name)
            takers = [letter for letter in self.kinds if name in settable(letter)]
            if value in (None, "auto"):
                continue
            if not takers:
                yield f"{name} is {value}, but {_have(self.kinds)} no {name}. Leave it out."
            for letter in takers:
                if problem := known_kinds()[letter].problem(name, value):
                    yield f"{name} is {value}, but for kind {letter} {problem}."
        for number, stage in enumerate(self.stages or ()):
            letter = stage.kind or self.kind
            for name in ("heads", "window"):
                if getattr(stage, name) is not None and name not in settable(letter):
                    found = f"stages[{number}].{name} is {getattr(stage, name)}"
                    yield f"{found}, but {_have((letter,))} no {name}. Leave it out."


def _order_problem(order: object) -> str | None:
    """What is wrong with an order, beginning with what was found."""
    if isinstance(order, tuple):
        numbers = all(isinstance(one, int) and not isinstance(one, bool) for one in order)
        if order and numbers and sorted(order) == list(range(1, len(order) + 1)):
            return None
        return f"{list(order)}; each stage must stand there once, by its number from 1 on, such as [4, 3, 2, 1]."
    if isinstance(order, str) and order in ORDERS:
        return None
    return f"{order!r}; it must be {' or '.join(ORDERS)}, or a list of stages such as [4, 3, 2, 1]."


def _have(letters: tuple[str, ...]) -> str:
    return f"kind {letters[0]} has" if len(letters) == 1 else f"kinds {' and '.join(letters)} have"


def _count(value: object, least: int) -> str | None:
    if isinstance(value, int) and not isinstance(value, bool) and least <= value <= 4096:
        return None
    return f"is {value!r}; a whole number of at least {least} is needed."
