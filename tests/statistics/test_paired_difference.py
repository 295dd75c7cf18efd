"""What pairs of trainings say of a gain, and how sure that is."""

import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from buildup.statistics.paired_difference import (
    PRIOR_SEEDS,
    GainEstimate,
    Pair,
    PooledVariance,
    estimate_gain,
    pooled_variance,
)
from buildup.trials.outcome import Score

IMAGES = 1000


def score(correct: "np.ndarray[tuple[int], np.dtype[np.bool_]]") -> Score:
    return Score(accuracy=100 * float(correct.mean()), correct=np.packbits(correct).tobytes(), images=len(correct))


def pairs_of(*gains: float) -> list[Pair]:
    return [Pair(candidate=Score(accuracy=80 + gain), parent=Score(accuracy=80)) for gain in gains]


def drawn(count: int, *, own: int, seed: int = 0) -> list[Pair]:
    """Pairs that toss a coin on 300 images, and where the candidate is right on `own` images, wrong on as many."""
    random = np.random.default_rng(seed)
    base = np.arange(IMAGES) < 600
    pairs = []
    for _ in range(count):
        ours, theirs = base.copy(), base.copy()
        ours[500:800] = random.random(300) < 0.5
        theirs[500:800] = random.random(300) < 0.5
        ours[:own] = False
        ours[IMAGES - own :] = True
        pairs.append(Pair(candidate=score(ours), parent=score(theirs)))
    return pairs


@given(gains=st.lists(st.floats(-5, 5), min_size=2, max_size=12), level=st.floats(0.1, 0.999))
def test_the_interval_is_all_gain_exactly_where_a_gain_is_as_probable_as_its_level_says(
    gains: list[float], level: float
) -> None:
    found = estimate_gain(pairs_of(*gains), PooledVariance())
    low, high = found.interval(level)
    if abs(low) > 1e-9:
        assert (low > 0) == (found.probability_above(0) > (1 + level) / 2)
    assert high - found.gain == pytest.approx(found.gain - low)


def test_more_seeds_narrow_the_interval() -> None:
    few, many = (estimate_gain(pairs_of(*[0.5, 0.4] * count), PooledVariance()).error for count in (1, 6))
    assert many < few / 2


def test_images_on_which_both_agree_narrow_the_interval() -> None:
    alike, apart = np.arange(100) < 80, np.arange(100) >= 20
    errors = [
        estimate_gain([Pair(candidate=score(alike), parent=score(other))] * 2, PooledVariance()).error
        for other in (alike, apart)
    ]
    assert errors[0] < errors[1]


def test_what_each_seed_draws_anew_fades_with_more_seeds_and_what_all_share_does_not() -> None:
    # 120 images on which the two always differ: a deviation of 100 * sqrt(0.12 / 1000) = 1.1 points for ever.
    fading = [estimate_gain(drawn(count, own=0), PooledVariance()).error for count in (3, 48)]
    staying = [estimate_gain(drawn(count, own=60), PooledVariance()).error for count in (3, 48)]
    assert fading[1] < fading[0] / 3
    assert staying[1] == pytest.approx(1.1, abs=0.15)


def test_one_swap_of_images_in_all_seeds_is_no_gain_however_many_seeds_say_so() -> None:
    found = estimate_gain(drawn(12, own=60), PooledVariance())
    assert 0.2 < found.probability_above(0) < 0.8


def test_seeds_that_differ_more_than_expected_are_believed() -> None:
    calm, wild = (
        estimate_gain(pairs_of(*gains), PooledVariance()).error for gains in ((0.9, 1.0, 1.1), (-3.0, 1.0, 5.0))
    )
    assert wild > 3 * calm


@given(apart=st.floats(0.0, 20.0), more=st.floats(0.01, 5.0), count=st.integers(2, 12))
def test_the_more_seeds_differ_the_larger_the_error_and_the_fewer_seeds_it_is_known_by(
    apart: float, more: float, count: int
) -> None:
    def of(width: float) -> GainEstimate:
        return estimate_gain(pairs_of(*(width * (-1) ** number for number in range(count))), PooledVariance())

    less, wider = of(apart), of(apart + more)
    assert wider.error >= less.error
    assert wider.degrees_of_freedom <= less.degrees_of_freedom + 1e-9
    assert wider.degrees_of_freedom >= count - 1 - 1e-9


def test_seeds_that_differ_as_expected_stand_with_those_of_the_prior_and_wild_ones_alone() -> None:
    calm, wild = (estimate_gain(pairs_of(1 - width, 1.0, 1 + width), PooledVariance()) for width in (0.1, 100.0))
    assert calm.degrees_of_freedom == PRIOR_SEEDS + 2
    assert wild.degrees_of_freedom == pytest.approx(2, abs=0.01)


def test_a_run_whose_seeds_speak_against_the_prior_is_believed_without_it() -> None:
    found = estimate_gain(pairs_of(0.9, 1.0, 1.1), PooledVariance(squares=4.0 * 1000, degrees_of_freedom=1000))
    assert found.error == pytest.approx(((0.34 + 4.0) / 3) ** 0.5, rel=0.01)


def test_what_a_run_has_shown_of_its_seeds_counts_for_the_next_verdict() -> None:
    pairs = pairs_of(0.4, 0.5, 0.6)
    quiet = PooledVariance(degrees_of_freedom=40)
    loud = PooledVariance(squares=40.0, degrees_of_freedom=40)
    errors = [estimate_gain(pairs, spread).error for spread in (quiet, PooledVariance(), loud)]
    assert errors == sorted(errors)
    shown = pooled_variance(pairs_of(-2.0, 0.0, 2.0))
    assert shown.squares > 0
    assert (shown + shown).degrees_of_freedom == 2 * shown.degrees_of_freedom


def test_a_verdict_takes_no_ten_milliseconds() -> None:
    pairs = drawn(12, own=10)
    start = time.perf_counter()
    for _ in range(20):
        estimate_gain(pairs, PooledVariance())
    assert (time.perf_counter() - start) / 20 < 0.01
