"""Guesses from lesion costs: an order and no more, and always a chance for both verdicts."""

from hypothesis import given, settings
from hypothesis import strategies as st

from buildup.rules.prior import STRONGEST, from_lesions

COSTS = st.dictionaries(st.text(min_size=1, max_size=4), st.floats(-50, 100), min_size=2, max_size=8)


@settings(max_examples=40)
@given(COSTS)
def test_what_is_missed_less_is_likelier_to_be_replaced_and_nothing_is_certain(costs: dict[str, float]) -> None:
    guesses = from_lesions(costs)
    assert guesses.keys() == costs.keys()
    for one in costs:
        assert 1 - STRONGEST - 1e-9 <= guesses[one] <= STRONGEST + 1e-9
        for other in costs:
            assert (guesses[one] > guesses[other] + 1e-12) == (costs[one] < costs[other])
    assert abs(sum(guesses.values()) / len(guesses) - 0.5) < 1e-9


@given(COSTS, st.floats(0.125, 8), st.floats(-16, 16))
def test_only_the_order_of_costs_counts(costs: dict[str, float], scale: float, shift: float) -> None:
    whole = {path: round(cost) for path, cost in costs.items()}
    assert from_lesions({path: scale * cost + shift for path, cost in whole.items()}) == from_lesions(whole)


def test_one_place_and_equal_places_are_as_likely_as_not() -> None:
    assert from_lesions({"a": 7.0}) == {"a": 0.5}
    assert set(from_lesions({"a": 1.0, "b": 1.0, "c": 1.0}).values()) == {0.5}
    assert from_lesions({}) == {}
