"""The claim that is made once, from fresh trainings."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from buildup.statistics.final_test import claim, mean_interval
from buildup.statistics.paired_difference import Pair
from buildup.trials.objective import OBJECTIVES
from buildup.trials.outcome import Score


def pairs_of(*gains: float) -> list[Pair]:
    return [Pair(candidate=Score(accuracy=80 + gain), parent=Score(accuracy=80)) for gain in gains]


@given(gains=st.lists(st.floats(-5, 5), min_size=2, max_size=8), claims=st.integers(1, 4))
def test_a_gain_is_claimed_exactly_where_the_whole_interval_is_gain(gains: list[float], claims: int) -> None:
    made = claim(pairs_of(*gains), (), claims)
    assert made.claimed == (made.ci[0] > 0)
    assert made.ci[0] <= made.gain <= made.ci[1]


def test_claims_side_by_side_share_the_error() -> None:
    one, two = (claim(pairs_of(0.9, 1.0, 1.1, 0.8, 1.2), (), claims) for claims in (1, 2))
    assert (one.level, two.level) == pytest.approx((0.95, 0.975))
    assert two.ci[0] < one.ci[0]


@pytest.mark.parametrize(("gain", "words"), [(2.0, "a gain of +2.00"), (-2.0, "a loss of -2.00"), (0.1, "not enough")])
def test_a_claim_says_in_words_what_its_interval_says(gain: float, words: str) -> None:
    assert words in claim(pairs_of(*[gain] * 5), ()).sentence


@given(gains=st.lists(st.floats(1, 5), min_size=2, max_size=8))
def test_nothing_is_claimed_where_a_training_failed(gains: list[float]) -> None:
    made = claim(pairs_of(*gains), (), failed=("1 training of the winner failed (diverged)",))
    assert not made.claimed
    assert made.sentence.startswith("Nothing is claimed")
    assert "1 training of the winner failed" in made.sentence


def test_less_is_a_gain_where_less_is_better() -> None:
    pairs = [Pair(candidate=OBJECTIVES["nll"].score(90, 1.0), parent=OBJECTIVES["nll"].score(120, 1.0))] * 5
    made = claim(pairs, (), objective=OBJECTIVES["nll"])
    assert made.claimed
    assert made.gain == pytest.approx(30)


def test_the_interval_of_a_mean_is_students() -> None:
    assert mean_interval([80.0]) is None
    assert mean_interval([80.0, 81.0, 82.0]) == pytest.approx((81 - 2.484, 81 + 2.484), abs=0.01)
