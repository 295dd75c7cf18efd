"""A search space in words."""

from collections.abc import Iterator, Mapping
from dataclasses import asdict

from buildup.graph.kinds import known_kinds
from buildup.space.schema import OWN, SearchSpace, Tuning, settable


def spaces_text(spaces: Mapping[str, SearchSpace]) -> str:
    """What each space allows."""
    lines = []
    for name, space in spaces.items():
        lines += [f"{name}: {space.description}", *(f"    {line}" for line in _allows(space))]
    return "\n".join([*lines, "", "A space of your own is a YAML file with the same keys: --space FILE."])


def how_it_walks(space: SearchSpace) -> str:
    """Which stage comes when, and what ends one.

    >>> how_it_walks(SearchSpace(name="s", description="", order=(2, 1), min_gain=0.2))
    'stages in the order 2, 1, look-ahead 0, 1 failure ends a stage, a gain of more than 0.2 is kept'
    """
    words = {"last-first": "stages from the last to the first", "first-last": "stages from the first to the last"}
    numbers = ", ".join(map(str, space.order))
    order = words[space.order] if isinstance(space.order, str) else f"stages in the order {numbers}"
    failures = "1 failure ends" if space.failures == 1 else f"{space.failures} failures end"
    gain = f"a gain of more than {space.min_gain:g} is kept"
    return f"{order}, look-ahead {space.look_ahead}, {failures} a stage, {gain}"


def tuned(tune: Tuning) -> str:
    """What is searched at a place where a block was kept.

    >>> tuned(Tuning(kind=("M", "G"), window=(2, 4)))
    'kind M, G and window 2, 4, at most 8 variants a place'
    """
    lists = {"kind": tune.kind, **tune.settings}
    words = [f"{name.replace('_', ' ')} {', '.join(map(str, values))}" for name, values in lists.items() if values]
    return f"{' and '.join(words)}, at most {tune.tries} variants a place"


def _allows(space: SearchSpace) -> Iterator[str]:
    """What a space allows, in a few lines."""
    kinds = " and ".join(f"{letter} ({known_kinds()[letter].name})" for letter in space.placed)
    if space.place == "end":
        yield f"one more block of kind {kinds} at the end of each stage"
    else:
        yield f"kind {kinds} at every {_ordinal(space.step)} block from a stage's end"
    yield how_it_walks(space)
    had = {name for letter in space.kinds for name in settable(letter)}
    asked = {name: space.asked(name) for name in (*OWN, *dict(space.settings)) if name in had}
    settings = [f"{name.replace('_', ' ')} {value}" for name, value in asked.items() if value is not None]
    yield ", ".join([*settings, f"stem {space.stem}", f"judge {space.judge}"])
    if space.tune:
        yield f"where a block was kept: {tuned(space.tune)}"
    if space.stages:
        wishes = ({key: value for key, value in asdict(stage).items() if value is not None} for stage in space.stages)
        yield "stages " + "; ".join(", ".join(f"{k} {v}" for k, v in wish.items()) or "as they are" for wish in wishes)


def _ordinal(number: int) -> str:
    return {1: "1st", 2: "2nd", 3: "3rd"}.get(number, f"{number}th")
