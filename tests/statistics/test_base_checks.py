"""When the base counts as still climbing, and which verdicts that marks."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from buildup.statistics.base_checks import Climb, climb
from buildup.statistics.paired_difference import Comparison
from buildup.trials.decision import Decision
from buildup.trials.objective import ACCURACY, OBJECTIVES

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


@given(gain=st.floats(-20, 20), climbed=st.floats(-20, 20), error=st.floats(0, 5))
def test_a_verdict_is_marked_if_and_only_if_the_climb_exceeds_it_beyond_its_error(
    gain: float, climbed: float, error: float
) -> None:
    found = Climb(gain=climbed, error=error)
    assert found.marks(decision(gain)) == (climbed - error > abs(gain))
    assert (found.warning([decision(gain)]) is not None) == found.marks(decision(gain))


def test_a_verdict_without_scores_is_not_marked() -> None:
    assert not Climb(gain=10.0, error=0.1).marks(replace(decision(0.0), scores=(), parent_scores=()))


def test_with_one_seed_the_images_and_the_expected_noise_are_the_error() -> None:
    found = climb(LONGER)
    assert found.gain == 4.0
    assert found.error == pytest.approx((1.0 + ACCURACY.seed_deviation**2) ** 0.5)


def test_seeds_that_differ_more_than_expected_make_the_climb_less_certain() -> None:
    quiet, loud = (Comparison(gain=1.0, seeds=5, squares=4 * deviation**2) for deviation in (0.5, 6.0))
    assert climb(LONGER, [quiet]).error < climb(LONGER).error < climb(LONGER, [loud]).error
    # With many seeds, their deviation is what counts.
    many = [Comparison(gain=1.0, seeds=5, squares=4 * 6.0**2)] * 50
    assert climb(LONGER, many).error == pytest.approx(6.0, rel=0.02)


def test_the_warning_names_the_gain_its_interval_and_how_many_verdicts_are_marked() -> None:
    said = Climb(gain=4.0, error=1.0).warning([decision(1.0), decision(-0.5), decision(8.0)])
    assert said is not None
    assert "with 1.5 times the epochs it gains +4.00 points (95 % interval +2.04 to +5.96, one seed)" in said
    assert "2 of 3 verdicts are marked" in said
    less = Climb(gain=4.0, error=1.0, objective=OBJECTIVES["nll"]).warning([decision(1.0)])
    assert less is not None
    assert "less nll is better" in less
    assert "1 of 1 verdicts is marked" in less
