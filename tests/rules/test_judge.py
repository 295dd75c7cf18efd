"""What the judges keep, and how often they are wrong."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from buildup.rules.base import Pair
from buildup.rules.judge import JUDGES, LIKELY, interval
from buildup.trials.decision import Verdict
from buildup.trials.outcome import Score


def pairs_of(*gains: float) -> list[Pair]:
    return [Pair(candidate=Score(accuracy=80 + gain), parent=Score(accuracy=80)) for gain in gains]


def verdict_of(name: str, pairs: list[Pair], verdicts: int = 8) -> Verdict:
    verdict = JUDGES[name](verdicts).judge(pairs, 1)
    assert isinstance(verdict, Verdict)
    return verdict


def test_point_keeps_the_larger_mean_and_says_that_chance_is_not_ruled_out() -> None:
    verdict = verdict_of("point", pairs_of(0.11))
    assert verdict.verdict == "keep"
    assert "chance is not ruled out" in verdict.reason


def test_point_drops_a_tie() -> None:
    assert verdict_of("point", pairs_of(0.0)).verdict == "drop"


@pytest.mark.parametrize("name", list(JUDGES))
@given(gains=st.lists(st.floats(-5, 5), min_size=2, max_size=12))
def test_interval_and_verdict_never_disagree(name: str, gains: list[float]) -> None:
    verdict = verdict_of(name, pairs_of(*gains))
    assert (verdict.verdict == "keep") == (verdict.ci[0] > 0)
    assert verdict.ci[0] <= verdict.gain <= verdict.ci[1]


@pytest.mark.parametrize("name", list(JUDGES))
@given(gains=st.lists(st.floats(-5, 5), min_size=2, max_size=8))
def test_a_verdict_does_not_depend_on_the_order_of_the_seeds(name: str, gains: list[float]) -> None:
    assert verdict_of(name, pairs_of(*gains)).verdict == verdict_of(name, pairs_of(*reversed(gains))).verdict


def test_proven_wants_more_than_likely() -> None:
    pairs = pairs_of(0.6, 0.5, 0.7)
    assert verdict_of("likely", pairs).verdict == "keep"
    assert verdict_of("proven", pairs).verdict == "drop"


def test_more_seeds_narrow_the_interval() -> None:
    _, low, high = interval(pairs_of(0.5, 0.4), 0.95)
    _, low_more, high_more = interval(pairs_of(*[0.5, 0.4] * 6), 0.95)
    assert high_more - low_more < high - low


def test_images_on_which_both_agree_narrow_the_interval() -> None:
    alike = [Pair(candidate=_score(80, 100), parent=_score(80, 100))] * 2
    apart = [Pair(candidate=_score(80, 100), parent=_score(80, 100, flipped=True))] * 2
    widths = [high - low for _, low, high in (interval(alike, 0.95), interval(apart, 0.95))]
    assert widths[0] < widths[1]


def test_likely_keeps_a_candidate_without_gain_about_as_often_as_it_says() -> None:
    draw = random.Random(1)
    kept = 0
    for _ in range(1000):
        gains = [draw.gauss(0, 0.583) for _ in range(3)]  # 17 % disagreement on 5,000 images
        kept += verdict_of("likely", pairs_of(*gains)).verdict == "keep"
    assert kept / 1000 < 1 - LIKELY + 0.03


def test_proven_keeps_anything_without_gain_in_at_most_five_percent_of_searches() -> None:
    draw = random.Random(2)
    searches = 0
    for _ in range(1000):
        keeps = (
            verdict_of("proven", pairs_of(*[draw.gauss(0, 0.65) for _ in range(3)])).verdict == "keep" for _ in range(8)
        )
        searches += any(keeps)
    assert searches / 1000 <= 0.05


def _score(right: int, images: int, *, flipped: bool = False) -> Score:
    bits = [True] * right + [False] * (images - right)
    if flipped:
        bits.reverse()
    packed = int("".join("1" if bit else "0" for bit in bits), 2).to_bytes((images + 7) // 8)
    return Score(accuracy=100 * right / images, correct=packed, images=images)
