"""When the base counts as still climbing, and which verdicts that marks."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from buildup.statistics.base_checks import GAINING, Climb, climb
from buildup.statistics.paired_difference import Comparison
from buildup.trials.decision import Decision
from buildup.trials.objective import OBJECTIVES
from buildup.trials.training import Check

LONGER = Comparison(gain=4.0, seeds=1, squares=0.0, image_variance=1.0)


def decision(gain: float) -> Decision:
    return Decision(
        step=1,
        candidate="cd",
        parent="ab",
        edit="",
        layout="CM",
        scores=(80.0 + gain,),
        parent_scores=(80.0,),
        gain=gain,
        ci=(gain, gain),
        verdict="keep" if gain > 0 else "drop",
        reason="",
        judge="point",
        level=0.0,
        looks=1,
        seeds=1,
    )


def climbed(gain: float, error: float, **changed: Any) -> Climb:
    return Climb(gain=gain, least=gain - error, interval=(gain - 2 * error, gain + 2 * error), **changed)


@given(gain=st.floats(-20, 20), climb=st.floats(-20, 20), error=st.floats(0, 5))
def test_a_verdict_is_marked_if_and_only_if_the_climb_exceeds_it_beyond_its_error(
    gain: float, climb: float, error: float
) -> None:
    found = climbed(climb, error)
    assert found.marks(decision(gain)) == (climb - error > abs(gain))
    assert (found.warning([decision(gain)]) is not None) == found.marks(decision(gain))


def test_a_verdict_without_scores_is_not_marked() -> None:
    assert not climbed(10.0, 0.1).marks(replace(decision(0.0), scores=(), parent_scores=()))


def width(found: Climb) -> float:
    low, high = found.interval
    return high - low


def test_one_seed_alone_says_little() -> None:
    found = climb(LONGER)
    assert found.gain == 4.0
    assert found.interval[0] < found.least < 0 < found.gain < found.interval[1]
    assert found.warning([decision(0.1)]) is None


def test_seeds_that_differ_more_than_expected_make_the_climb_less_certain() -> None:
    quiet, loud = ([Comparison(gain=1.0, seeds=5, squares=4 * deviation**2)] * 5 for deviation in (0.5, 6.0))
    assert width(climb(LONGER, quiet)) < width(climb(LONGER, loud))
    assert climb(LONGER, quiet).least > climb(LONGER, loud).least


def test_with_many_seeds_their_deviation_is_what_counts() -> None:
    many = [Comparison(gain=1.0, seeds=9, squares=8 * 4.0**2)] * 30
    found = climb(replace(LONGER, image_variance=0.0), many)
    assert width(found) == pytest.approx(2 * 1.96 * 4.0, rel=0.1)
    assert found.least == pytest.approx(4.0 - 4.0, abs=0.3)
    assert width(climb(LONGER, many, checks=3)) > width(climb(LONGER, many))


@pytest.mark.parametrize("deviation", [0.4, 1.0, 4.0])
def test_the_interval_holds_the_true_gain_as_often_as_it_says(deviation: float) -> None:
    """Two other comparisons of three seeds, as after the first verdicts of a search."""
    random, held = np.random.default_rng(0), 0
    for _ in range(400):
        others = []
        for _ in range(2):
            differences = random.normal(0, deviation, 3)
            others.append(Comparison(gain=0.0, seeds=3, squares=float(((differences - differences.mean()) ** 2).sum())))
        low, high = climb(Comparison(gain=random.normal(0.8, deviation), seeds=1, squares=0.0), others).interval
        held += low <= 0.8 <= high
    assert held / 400 >= 0.92


def test_the_warning_names_the_gain_its_interval_and_how_many_verdicts_are_marked() -> None:
    said = climbed(4.0, 1.0).warning([decision(1.0), decision(-0.5), decision(8.0)])
    assert said is not None
    assert said.startswith("The base is still climbing: with 1.5 times the epochs it gains +4.00 points")
    assert "(95 % interval +2.00 to +6.00, one seed)" in said
    assert "2 of 3 verdicts are marked" in said
    less = climbed(4.0, 1.0, objective=OBJECTIVES["nll"]).warning([decision(1.0)])
    assert less is not None
    assert "less nll is better" in less
    assert "1 of 1 verdicts is marked" in less


@pytest.mark.parametrize("check", GAINING)
def test_a_gain_within_chance_is_said_to_be_possible(check: Check) -> None:
    unsure, sure = (climbed(4.0, error, check=check).warning([decision(1.0)]) for error in (2.5, 1.0))
    assert unsure is not None
    assert sure is not None
    assert " may " in unsure
    assert " may " not in sure.partition(":")[0]
