"""What a space says of settings that are right by themselves and wrong together."""

from typing import Any, cast

import pytest

from buildup.errors import SpaceError
from buildup.graph.kinds import known_kinds
from buildup.space.schema import OWN, SearchSpace, StageSpace, Tuning, settable


def space(**settings: Any) -> SearchSpace:  # any value may stand in a file
    return SearchSpace(name="test", description="", **settings)


def test_the_settings_of_a_space_are_those_of_the_kinds() -> None:
    # A block's width is fitted, never asked for.
    assert {name for letter in known_kinds() for name in settable(letter)} == set(OWN)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"kind": "C"}, "kind C in place of the base's own blocks changes nothing. Use place: end"),
        ({"kind": "S", "heads": 3}, "heads is 3, but kind S has no heads. Leave it out."),
        ({"kind": "K", "window": 4}, "window is 4, but kind K has no window"),
        ({"kernel": 3}, "kernel is 3, but kind M has no kernel"),
        ({"kind": "K", "kernel": 4}, "kernel is 4, but for kind K an odd number is needed, such as 5"),
        ({"kind": "S", "borders": "masked"}, "borders is masked, but for kind S it must be replicate or grow"),
        ({"kind": "G", "tables": "heads"}, "tables is heads, but kind G has no tables"),
        ({"kind": "S", "place": "end", "step": 1}, "step is 1, but with place: end every stage has one try"),
        ({"kind": "S", "place": "end", "look_ahead": 1}, "look_ahead is 1, but with place: end"),
        ({"kind": "S", "place": "end", "failures": 2}, "failures is 2, but with place: end every stage has one try"),
        ({"failures": 0}, "failures is 0; a whole number of at least 1"),
        ({"min_gain": -0.1}, "min_gain is -0.1; a number from 0 to 100"),
        ({"min_gain": "some"}, "min_gain is 'some'; a number"),
        ({"order": "backwards"}, "order is 'backwards'; it must be last-first or first-last, or a list of stages"),
        ({"order": (4, 3, 3)}, r"order is \[4, 3, 3\]; each stage must stand there once"),
        ({"order": ()}, r"order is \[\]; each stage"),
        ({"order": (True,)}, r"order is \[True\]; each stage"),
        ({"tune": Tuning()}, "tune names nothing to search"),
        ({"tune": Tuning(window=(4, 4))}, r"tune.window is \[4, 4\]; a list of different values is needed"),
        ({"tune": Tuning(window=cast(Any, 4))}, "tune.window is 4; a list of different values is needed"),
        ({"tune": Tuning(heads=(0, True))}, r"tune.heads has 0; a whole number of at least 1(?s:.*)has True"),
        ({"tune": Tuning(kind=("M", "C"))}, "tune.kind has 'C'; it may have M, G, K, S, T"),
        ({"tune": Tuning(window=(4,), tries=0)}, "tune.tries is 0"),
        (
            {"tune": Tuning(kind=("G",), window=(4, 7))},
            r"but kind G has no window. Give tune.kind M, too, or leave it out",
        ),
        ({"tune": Tuning(kind=("M",))}, r"tune.kind is \['M'\], which is what the rule puts there"),
        ({"kind": "G", "tune": Tuning(window=(4,))}, r"tune.window is \[4\], but kind G has no window. Leave it out"),
        ({"place": "front"}, "place is 'front'; it must be one of replace, end"),
        ({"head_size": 0}, "head_size is 0; a whole number of at least 1 is needed, or 'auto'"),
        ({"kernel": True}, "kernel is True; a whole number"),
        ({"borders": "cut"}, "borders is 'cut'; it must be one of masked, attended, replicate, grow"),
        ({"kind": ["M"]}, r"kind is \['M'\]; it must be one of C, M, G, K, S, T"),
        ({"stages": (StageSpace(kind="S", heads=3),)}, r"stages\[0\].heads is 3, but kind S has no heads"),
        ({"stages": (StageSpace(kind="C"), StageSpace())}, "kind C in place"),
        ({"stages": (StageSpace(kind="K"), StageSpace(kind="S")), "kernel": 2}, "for kind K an odd number"),
        ({"stages": (StageSpace(kind="S"), StageSpace(kind="K")), "temperature": 0}, "temperature is 0"),
    ],
)
def test_a_setting_that_does_not_fit_the_others_is_refused(settings: dict[str, Any], says: str) -> None:
    with pytest.raises(SpaceError, match=says):
        space(**settings)


def test_all_that_is_wrong_together_is_named_at_once() -> None:
    with pytest.raises(SpaceError) as error:
        space(kind="K", kernel=2, window=7, tables="heads", borders="grow", stages=(StageSpace(window=3),))
    assert len(error.value.problems) == 5


def test_kinds_of_stages_come_before_the_kind_of_the_space() -> None:
    assert space(stages=(StageSpace(kind="G"), StageSpace(), StageSpace(kind="G"))).kinds == ("G", "M")


def test_a_setting_goes_to_the_kinds_that_have_it_and_are_tried() -> None:
    mixed = space(kind="S", kernel=3, borders=None, temperature=5, stages=(StageSpace(kind="M"), StageSpace()))
    assert mixed.given("S") == {"kernel": 3, "temperature": 5}
    assert mixed.given("M") == mixed.given("K") == {}


def test_a_kind_that_is_only_tuned_has_its_settings_but_is_not_placed() -> None:
    mixed = space(kernel=5, tune=Tuning(kind=("M", "K")))
    assert mixed.given("K") == {"kernel": 5}
    assert mixed.placed == ("M",)
