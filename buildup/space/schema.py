"""Search spaces: frozen values that validate themselves, and their descriptions in words.

>>> SearchSpace(name="mine", description="", kind="K", window=7)
Traceback (most recent call last):
buildup.errors.SpaceError: window is 7, but kind K has no window. Leave it out.
"""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args, get_origin

from buildup.errors import SpaceError
from buildup.graph.kinds import Conv, known_kinds, settings_of

STEMS = ("auto", "small", "base")
PLACES = ("rule", "any")
ORDERS = ("last-first", "first-last")
_EXAMPLES = {"kind": "M, G", "window": "4, 7", "heads": "3, 6", "head_size": "32, 64"}
PLACED = ("heads", "head_size", "window")
"""Settings that depend on the stage."""
OWN = (*PLACED, "kernel", "tables", "borders", "temperature")
"""The settings of kinds that are fields of a space."""


def settable(letter: str) -> tuple[str, ...]:
    # The width follows from the block that is replaced.
    return tuple(name for name in settings_of(known_kinds()[letter]) if name != "width")


@dataclass(frozen=True, slots=True, kw_only=True)
class StageSpace:
    """The settings of one stage; what is left out is taken from the space or the base."""

    kind: str | None = None
    """The letter of the kind to try in this stage."""
    max_replaced: int | None = None
    """Maximum number of blocks of this stage that are tried; by default all that can be replaced."""
    blocks: int | None = None
    """Number of blocks before the search; those that the base lacks are added at the end of the stage."""
    heads: int | None = None
    """Number of heads here."""
    window: int | None = None
    """Side of the attention windows here."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tuning:
    """Settings that are searched at a place where a block was kept. Every combination that fits there is a variant."""

    kind: tuple[str, ...] = ()
    """Letters of other kinds. Here and below, the values to try."""
    window: tuple[int, ...] = ()
    """Sides of the attention windows."""
    heads: tuple[int, ...] = ()
    """Numbers of heads."""
    head_size: tuple[int, ...] = ()
    """Channels of a head."""
    tries: int = 8
    """Maximum number of variants tried at a place. If there are more, Optuna's TPE chooses."""

    @property
    def settings(self) -> dict[str, tuple[int, ...]]:
        """The searched settings except the kind, with their values."""
        named = {"window": self.window, "heads": self.heads, "head_size": self.head_size}
        return {name: values for name, values in named.items() if values}

    def problems(self, placed: tuple[str, ...]) -> Iterator[str]:
        """All problems in a space that places these kinds."""
        tunable = [letter for letter in known_kinds() if letter != Conv.letter]
        kinds = tuple(map(str, self.kind)) if isinstance(self.kind, tuple) and self.kind else placed
        if problem := _count(self.tries, 1):
            yield f"tune.tries {problem}"
        lists: dict[str, object] = {name: getattr(self, name) for name in _EXAMPLES}
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
    """Which blocks may be tried where, and the settings of the build-up rule."""

    name: str
    description: str
    kind: str = "M"
    """The letter of the kind to try."""
    place: Literal["replace", "end"] = "replace"
    """`replace` replaces blocks of the base by it; `end` adds one block of it at the end of each stage."""
    places: Literal["rule", "any"] = "rule"
    """Where the controls change a stage: at the places of the build-up rule, or with `any` at as many places anywhere
    in it. The build-up rule does not use it."""
    heads: int | Literal["auto"] = "auto"
    """Number of heads in the fourth stage from the end, doubled from stage to stage.

    `auto` is 3, or what fits the size of the replaced block where that is not the paper's.
    """
    head_size: int | Literal["auto"] = "auto"
    """`auto` is 64 in the paper's block, and fits the size of the replaced block elsewhere."""
    window: int | Literal["auto"] = "auto"
    """Side of the attention windows; `auto` is 7 if that divides the map, else its largest divisor up to 7."""
    kernel: int | None = None
    """Side of the kernel: odd for K, any for S. Here and below, null is the kind's default."""
    tables: Literal["shared", "heads"] | None = None
    """For M: one table of relative positions for all heads, as in the paper, or one for each head."""
    borders: Literal["masked", "attended", "replicate", "grow"] | None = None
    """What is beyond the map: for K `masked` or `attended`, for S `replicate` or `grow`."""
    temperature: int | None = None
    """For S: the bound of its activations."""
    settings: tuple[tuple[str, int | str], ...] = ()
    """Settings of kinds from other packages. In a file they stand beside the others."""
    stem: Literal["auto", "small", "base"] = "auto"
    """`small` is a 3x3 stem of stride 1 without pooling; `auto` uses it for inputs of up to 64 px."""
    order: Literal["last-first", "first-last"] | tuple[int, ...] = "last-first"
    """The order of stages: the paper's, its reverse, or all stages by number, counted from 1."""
    step: int = 2
    """Distance between two places that are tried in a stage; 2 alternates Conv and attention."""
    look_ahead: int = 0
    """How many further blocks may be tried on top of a dropped one; the paper's value is 1."""
    failures: int = 1
    """Number of failed tries that end a stage. A look-ahead counts as part of the try that it follows."""
    min_gain: float = 0.0
    """A candidate is kept only for a gain above this, in the unit of the objective."""
    judge: str = "likely"
    """The name of a judge, of `statistics/judges.py` or of another package. It is not checked here."""
    stages: tuple[StageSpace, ...] | None = None
    """One entry a stage, from the first to the last."""
    tune: Tuning | None = None
    """Settings that are searched at each place where a block was kept, before the rule goes on."""

    def __post_init__(self) -> None:
        if problems := [
            *self._values(),
            *self._stage_values(),
            *(self.tune.problems(self.placed) if self.tune else ()),
        ]:
            raise SpaceError(*problems)
        if problems := [*self._combinations()]:  # only of values that are valid by themselves
            raise SpaceError(*problems)

    @property
    def placed(self) -> tuple[str, ...]:
        """The letters of all kinds that the rule places."""
        return tuple(dict.fromkeys(stage.kind or self.kind for stage in self.stages or (StageSpace(),)))

    @property
    def kinds(self) -> tuple[str, ...]:
        """The letters of all kinds that are tried, including those of `tune`."""
        return tuple(dict.fromkeys([*self.placed, *(self.tune.kind if self.tune else ())]))

    @property
    def steering(self) -> tuple[str, ...]:
        """The names of fields that were set but affect the build-up rule alone."""
        usual = {"order": "last-first", "look_ahead": 0, "failures": 1, "tune": None}
        return tuple(name for name, value in usual.items() if getattr(self, name) != value)

    def stage_order(self, stages: int) -> tuple[int, ...]:
        """The indices of all stages in the order of the rule.

        >>> SearchSpace(name="s", description="").stage_order(4)
        (3, 2, 1, 0)
        """
        if isinstance(self.order, tuple):
            return tuple(number - 1 for number in self.order)
        return tuple(range(stages)) if self.order == "first-last" else tuple(reversed(range(stages)))

    def stage(self, number: int) -> StageSpace:
        return self.stages[number] if self.stages else StageSpace()

    def given(self, letter: str) -> dict[str, int | str]:
        """The settings of a kind that don't depend on the stage, as far as they were set."""
        names = [name for name in settable(letter) if name not in PLACED] if letter in self.kinds else []
        return {name: value for name in names if (value := self.asked(name)) is not None}

    def asked(self, name: str) -> Any:
        """The value of a setting of kinds; None if it was not set."""
        return getattr(self, name) if name in OWN else dict(self.settings).get(name)

    def _values(self) -> Iterator[str]:
        known = {"kind": tuple(known_kinds()), "place": ("replace", "end"), "places": PLACES, "stem": STEMS}
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
        alone = (("step", 2), ("look_ahead", 0), ("failures", 1), ("places", "rule"))
        for name, usual in alone if self.place == "end" else ():
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
    """What is wrong with an order; None if it is valid."""
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


def describe_spaces(spaces: Mapping[str, SearchSpace]) -> str:
    lines = []
    for name, space in spaces.items():
        lines += [f"{name}: {space.description}", *(f"    {line}" for line in _description(space))]
    return "\n".join([*lines, "", "A space of your own is a YAML file with the same keys: --space FILE."])


def describe_walk(space: SearchSpace) -> str:
    """The order of stages, and what ends a stage.

    >>> describe_walk(SearchSpace(name="s", description="", order=(2, 1), min_gain=0.2))
    'stages in the order 2, 1, look-ahead 0, 1 failure ends a stage, a gain of more than 0.2 is kept'
    """
    words = {"last-first": "stages from the last to the first", "first-last": "stages from the first to the last"}
    numbers = ", ".join(map(str, space.order))
    order = words[space.order] if isinstance(space.order, str) else f"stages in the order {numbers}"
    failures = "1 failure ends" if space.failures == 1 else f"{space.failures} failures end"
    return f"{order}, look-ahead {space.look_ahead}, {failures} a stage, a gain of more than {space.min_gain:g} is kept"


def describe_tuning(tune: Tuning) -> str:
    """The settings that are searched at a place where a block was kept.

    >>> describe_tuning(Tuning(kind=("M", "G"), window=(2, 4)))
    'kind M, G and window 2, 4, at most 8 variants a place'
    """
    lists = {"kind": tune.kind, **tune.settings}
    words = [f"{name.replace('_', ' ')} {', '.join(map(str, values))}" for name, values in lists.items() if values]
    return f"{' and '.join(words)}, at most {tune.tries} variants a place"


def _description(space: SearchSpace) -> Iterator[str]:
    kinds = " and ".join(f"{letter} ({known_kinds()[letter].name})" for letter in space.placed)
    if space.place == "end":
        yield f"one more block of kind {kinds} at the end of each stage"
    else:
        ordinal = {1: "1st", 2: "2nd", 3: "3rd"}.get(space.step, f"{space.step}th")
        anywhere = ", for the controls at as many blocks anywhere in a stage" if space.places == "any" else ""
        yield f"kind {kinds} at every {ordinal} block from a stage's end{anywhere}"
    yield describe_walk(space)
    had = {name for letter in space.kinds for name in settable(letter)}
    asked = {name: space.asked(name) for name in (*OWN, *dict(space.settings)) if name in had}
    settings = [f"{name.replace('_', ' ')} {value}" for name, value in asked.items() if value is not None]
    yield ", ".join([*settings, f"stem {space.stem}", f"judge {space.judge}"])
    if space.tune:
        yield f"where a block was kept: {describe_tuning(space.tune)}"
    if space.stages:
        wishes = ({key: value for key, value in asdict(stage).items() if value is not None} for stage in space.stages)
        yield "stages " + "; ".join(", ".join(f"{k} {v}" for k, v in wish.items()) or "as they are" for wish in wishes)
