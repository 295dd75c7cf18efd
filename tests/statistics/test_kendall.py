"""Kendall's tau for a handful of pairs: closed cases, scipy, and how often its interval holds the truth."""

from itertools import permutations, product
from math import asin, exp, factorial, pi
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import kendalltau

from buildup.statistics.kendall import at_least, at_most, kendall, tau_of

ROWS = st.integers(2, 12).flatmap(lambda count: st.permutations(range(count)))
TIED = st.integers(2, 5).flatmap(
    lambda count: st.tuples(*[st.lists(st.integers(0, 2), min_size=count, max_size=count)] * 2)
)


@settings(max_examples=60)
@given(ROWS)
def test_tau_and_p_are_those_of_scipy_where_nothing_is_tied(row: list[int]) -> None:
    expected = kendalltau(range(len(row)), row, method="exact")
    found = kendall(range(len(row)), row)
    assert found.tau == pytest.approx(expected.statistic)
    assert found.p == pytest.approx(expected.pvalue)


@settings(max_examples=60)
@given(TIED)
def test_no_p_comes_by_chance_more_often_than_it_says_with_any_ties(rows: tuple[list[int], list[int]]) -> None:
    first, second = rows
    values = [kendall(first, order).p for order in permutations(second)]
    for p in set(values):
        assert sum(one <= p + 1e-12 for one in values) / len(values) <= p + 1e-9


@settings(max_examples=60)
@given(ROWS)
def test_reversing_one_row_turns_the_sign_and_swapping_rows_changes_nothing(row: list[int]) -> None:
    straight, back = kendall(range(len(row)), row), kendall(range(len(row)), [-one for one in row])
    assert (back.tau, back.low, back.high) == pytest.approx((-straight.tau, -straight.high, -straight.low))
    assert back.p == pytest.approx(straight.p)
    swapped = kendall(row, range(len(row)))
    assert (swapped.tau, swapped.p) == (straight.tau, straight.p)


@settings(max_examples=100)
@given(ROWS)
def test_zero_is_outside_of_the_interval_just_when_chance_is_rarer_than_the_level(row: list[int]) -> None:
    found = kendall(range(len(row)), row)
    assert found.low - 1e-9 <= found.tau <= found.high + 1e-9
    assert (found.low > 1e-9 or found.high < -1e-9) == (found.p < 0.05)


def test_perfect_agreement_of_four_proves_nothing_and_of_five_something() -> None:
    four, five = kendall(range(4), range(4)), kendall(range(5), range(5))
    assert (four.p, five.p) == pytest.approx((2 / factorial(4), 2 / factorial(5)))
    assert four.low < 0 < five.low
    assert four.high == five.high == 1.0


def test_a_row_of_ties_says_nothing() -> None:
    found = kendall([1.0] * 5, [1, 2, 3, 4, 5])
    assert (found.tau, found.p) == (0.0, 1.0)
    assert (found.low, found.high) == (-1.0, 1.0)


@pytest.mark.parametrize(("count", "strength"), list(product((3, 5), (-0.7, 0.0, 0.4))))
def test_probabilities_are_those_of_all_orders_counted_one_by_one(count: int, strength: float) -> None:
    weights: dict[int, float] = {}
    for order in permutations(range(count)):
        inversions = sum(order[i] > order[j] for i in range(count) for j in range(i + 1, count))
        weights[inversions] = weights.get(inversions, 0.0) + exp(-strength * inversions)
    total = sum(weights.values())
    for number in weights:
        fewer, more = (sum(weights[k] for k in weights if sign * k <= sign * number) for sign in (1, -1))
        assert at_most(number, (count,), strength) == pytest.approx(fewer / total)
        assert at_least(number, (count,), strength) == pytest.approx(more / total)
    mean = sum(number * weight for number, weight in weights.items()) / total
    assert tau_of((count,), strength) == pytest.approx(1 - 2 * mean / (count * (count - 1) / 2))


@pytest.mark.parametrize("count", [5, 12])
@pytest.mark.parametrize("correlation", [0.0, 0.5, 0.9])
def test_the_interval_holds_the_truth_as_often_as_it_says_for_normal_pairs(count: int, correlation: float) -> None:
    draw, runs, held = Random(f"{count}/{correlation}"), 400, 0
    truth = 2 / pi * asin(correlation)
    for _ in range(runs):
        first = [draw.gauss(0, 1) for _ in range(count)]
        second = [correlation * one + (1 - correlation**2) ** 0.5 * draw.gauss(0, 1) for one in first]
        found = kendall(first, second)
        held += found.low <= truth <= found.high
    # 0.95 less four deviations of a count of 400.
    assert held / runs >= 0.906


def test_many_things_are_counted_as_well() -> None:
    found = kendall(range(60), [(7 * number) % 60 for number in range(60)])
    assert -1 < found.low < found.tau < found.high < 1


@settings(max_examples=40)
@given(ROWS, ROWS)
def test_groups_of_their_own_heights_are_compared_within_alone(one: list[int], other: list[int]) -> None:
    first, groups = [*range(len(one)), *range(len(other))], [*"a" * len(one), *"b" * len(other)]
    found = kendall(first, [*one, *other], groups=groups)
    lifted = kendall(first, [*one, *(1000 + value for value in other)], groups=groups)
    assert lifted == found
    alone, beside = kendall(range(len(one)), one), kendall(range(len(other)), other)
    pairs, others = (len(row) * (len(row) - 1) / 2 for row in (one, other))
    assert found.tau == pytest.approx((alone.tau * pairs + beside.tau * others) / (pairs + others))


def test_the_chances_of_groups_are_those_of_all_their_orders() -> None:
    first, groups = [1, 2, 3, 1, 2], "aaabb"
    counted = [
        kendall(first, [*one, *other], groups=groups).tau
        for one in permutations((1, 2, 3))
        for other in permutations((1, 2))
    ]
    for one in permutations((1, 2, 3)):
        found = kendall(first, [*one, 1, 2], groups=groups)
        beyond = min(sum(tau >= found.tau - 1e-9 for tau in counted), sum(tau <= found.tau + 1e-9 for tau in counted))
        assert found.p == pytest.approx(min(1.0, 2 * beyond / 12))


def test_a_thing_without_another_one_of_its_group_says_nothing() -> None:
    assert kendall([1, 2, 9], [1, 2, 0], groups="aab") == kendall([1, 2], [1, 2])
