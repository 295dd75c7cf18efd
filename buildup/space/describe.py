"""A search space in words."""

from buildup.space.schema import SearchSpace, Tuning


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
