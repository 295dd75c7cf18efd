import random
from functools import reduce
from operator import add

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from buildup.graph.network import sketch
from buildup.rules.curves import Learning, count
from buildup.rules.early import ENOUGH, EarlyDrop, Lesson, foretell, pair
from buildup.rules.judge import JUDGES
from buildup.rules.listed import at_random
from buildup.rules.procedure import Procedure
from buildup.space.schema import SearchSpace
from buildup.trials.candidate import Candidate

EARLY = EarlyDrop(risk=0.05, epochs=8)
BASE = Candidate(network=sketch(f"CCC|CCCC|{23 * 'C'}|CCC"))


def searching(judge: str = "likely", early: EarlyDrop | None = EARLY) -> Procedure:
    rule = at_random(BASE, SearchSpace(name="layouts", description=""), 1)
    return Procedure(rule=rule, judge=JUDGES[judge], seeds=2, early=early)


def lessons(*pairs: tuple[float, float]) -> Lesson:
    return reduce(add, (pair(x, y) for x, y in pairs))


def test_nothing_is_dropped_by_its_curve_before_enough_candidates_were_trained_to_the_end() -> None:
    hopeless = [-50.0, -50.0]
    few = lessons(*[(-5.0, -5.0)] * (ENOUGH - 1))
    assert EARLY.verdict(2, hopeless, few, 0.0, "points") is None
    assert EARLY.verdict(2, hopeless, few + pair(-5.0, -5.0), 0.0, "points") is not None


def test_a_late_start_is_no_reason_where_late_starters_have_caught_up() -> None:
    caught_up = lessons((-3.0, 0.6), (-2.5, 0.9), (-3.5, 0.2), (-2.0, 1.4), (-4.0, 0.3), (-3.0, 0.5))
    stayed_behind = lessons((-3.0, -3.1), (-2.5, -2.2), (-3.5, -3.6), (-2.0, -2.1), (-4.0, -3.9), (-3.0, -2.8))
    assert EARLY.verdict(2, [-3.0, -3.2], caught_up, 0.0, "points") is None
    assert EARLY.verdict(2, [-3.0, -3.2], stayed_behind, 0.0, "points") is not None


DIFFERENCES = st.floats(-10, 10)


@given(
    st.lists(st.tuples(DIFFERENCES, DIFFERENCES), min_size=ENOUGH, max_size=12),
    st.lists(DIFFERENCES, min_size=1, max_size=4),
)
@settings(max_examples=60, deadline=None)
def test_interval_and_verdict_never_disagree(pairs: list[tuple[float, float]], gains: list[float]) -> None:
    verdict = EARLY.verdict(2, gains, lessons(*pairs), 0.0, "points")
    _, high = foretell(sum(gains) / len(gains), lessons(*pairs)).interval(1 - 2 * EARLY.risk)
    assert (verdict is not None) == (high < 0)


@given(st.permutations([(-3.0, 0.6), (-2.5, -0.9), (1.0, 0.2), (2.0, 1.4)]))
@settings(max_examples=10, deadline=None)
def test_the_order_of_what_was_learned_does_not_matter(pairs: list[tuple[float, float]]) -> None:
    found = foretell(-1.0, lessons(*pairs))
    expected = foretell(-1.0, lessons(*sorted(pairs)))
    assert (found.gain, found.error) == pytest.approx((expected.gain, expected.error))


def test_many_lessons_outweigh_the_prior() -> None:
    draw = random.Random(0)
    points = [(x := draw.gauss(-2, 1), 0.5 * x + 1 + draw.gauss(0, 0.2)) for _ in range(400)]
    found = foretell(-2.0, lessons(*points))
    assert found.gain == pytest.approx(0.0, abs=0.05)
    assert found.error == pytest.approx(0.2, abs=0.05)


def test_what_would_have_been_kept_is_seldom_dropped() -> None:
    found = count(searching("point"), Learning(), runs=30)
    assert found.early > 20
    assert found.wrongly <= 0.05 * found.keepable
