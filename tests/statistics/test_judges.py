"""What the judges keep, and when they want to see more."""

import re
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import ndtri

from buildup.statistics.judges import ERROR, EXPONENT, JUDGES, error_bounds
from buildup.statistics.paired_difference import Comparison, Pair, compare
from buildup.trials.decision import Verdict
from buildup.trials.outcome import Score


def comparison(*gains: float) -> Comparison:
    return compare([Pair(candidate=Score(accuracy=80 + gain), parent=Score(accuracy=80)) for gain in gains])


def answer_of(name: str, *gains: float, last: int = 12, share: float = 0.25, min_gain: float = 0.0) -> Verdict | None:
    judge = replace(JUDGES[name], min_gain=min_gain)
    return judge.judge(comparison(*gains), (), first=2, last=last, share=share)


def verdict_of(name: str, *gains: float, share: float = 0.25, min_gain: float = 0.0) -> Verdict:
    """The verdict at the last look."""
    verdict = answer_of(name, *gains, last=len(gains), share=share, min_gain=min_gain)
    assert verdict is not None
    return verdict


def test_point_keeps_the_larger_mean_and_says_that_chance_is_not_ruled_out() -> None:
    verdict = verdict_of("point", 0.11, 0.11)
    assert verdict.verdict == "keep"
    assert "chance is not ruled out" in verdict.reason


def test_point_drops_a_tie() -> None:
    assert verdict_of("point", 0.0, 0.0).verdict == "drop"


@pytest.mark.parametrize("name", list(JUDGES))
@given(gains=st.lists(st.floats(-5, 5), min_size=2, max_size=12))
def test_interval_and_verdict_never_disagree(name: str, gains: list[float]) -> None:
    verdict = answer_of(name, *gains)
    if verdict is None:
        assert len(gains) < 12
        return
    assert (verdict.verdict == "keep") == (verdict.ci[0] > 0)
    assert verdict.ci[0] <= verdict.gain <= verdict.ci[1]
    assert verdict.reason.startswith("kept" if verdict.verdict == "keep" else "dropped")


@pytest.mark.parametrize("name", list(JUDGES))
@given(gains=st.lists(st.floats(-5, 5), min_size=2, max_size=8))
def test_a_verdict_does_not_depend_on_the_order_of_the_seeds(name: str, gains: list[float]) -> None:
    forwards, backwards = verdict_of(name, *gains), verdict_of(name, *reversed(gains))
    assert forwards.gain == pytest.approx(backwards.gain, abs=1e-6)
    assert forwards.verdict == backwards.verdict or abs(forwards.ci[0]) < 1e-6


@pytest.mark.parametrize("name", ["likely", "proven"])
def test_a_judge_asks_for_a_seed_where_it_may_change_its_mind(name: str) -> None:
    assert answer_of(name, 0.3, 0.5, 0.2) is None
    assert answer_of(name, -1.2, -1.1, -0.9) is not None
    assert answer_of(name, 4.0, 4.1, 3.9, 4.0, 4.2) is not None


def test_what_is_still_open_at_the_last_look_is_dropped_as_undecided() -> None:
    verdict = verdict_of("proven", *[0.3, 0.2] * 6)
    assert verdict.verdict == "drop"
    assert verdict.reason.startswith("dropped as undecided: +0.25 points are not enough to tell a gain from chance")


def test_proven_wants_more_than_likely() -> None:
    gains = (0.9, 1.0, 0.8, 1.0, 0.9, 0.9)
    assert verdict_of("likely", *gains).verdict == "keep"
    assert verdict_of("proven", *gains, share=0.01).verdict == "drop"


def test_likely_shows_the_shrunken_gain_and_proven_the_mean() -> None:
    gains = (1.0, 0.9, 1.1, 0.9)
    assert 0 < verdict_of("likely", *gains).gain < 0.97
    assert verdict_of("proven", *gains).gain == pytest.approx(0.975)


@pytest.mark.parametrize(
    ("name", "gains", "min_gain", "said"),
    [
        ("point", (0.9, 1.1), 0.5, r"kept: \+1\.00 points over its parent, more than the 0\.5 asked for \(2 seeds, no"),
        ("point", (0.4, 0.2), 0.5, r"dropped: \+0\.30 points over its parent, not more than the 0\.5 asked for"),
        ("point", (-0.4, -0.2), 0.0, r"dropped: -0\.30 points against its parent \(2 seeds"),
        (
            "likely",
            (3.0, 3.1, 2.9) * 2,
            0.5,
            r"kept \(unproven\): .* over its parent, more than the 0\.5 asked .*90 % interval",
        ),
        (
            "likely",
            (3.0, 3.1, 2.9) * 2,
            0.0,
            r"kept \(unproven\): \+\d\.\d\d points over its parent \(90 % interval .* 6 seeds\)",
        ),
        ("likely", (-3.0, -3.1, -2.9) * 2, 0.5, r"dropped: .* are less than the 0\.5 asked for"),
        ("likely", (-3.0, -3.1, -2.9) * 2, 0.0, r"dropped: -\d\.\d\d points against its parent \(90 % interval"),
        (
            "likely",
            (0.6, 0.4, 0.5),
            0.5,
            r"dropped as undecided: .* not enough to tell a gain of more than 0\.5 from chance",
        ),
        ("proven", (9.0, 9.1, 8.9), 0.0, r"kept: \+9\.00 points over its parent \(\d\d\.\d+ % CI"),
    ],
)
def test_a_reason_names_the_gain_what_was_asked_for_and_the_interval(
    name: str, gains: tuple[float, ...], min_gain: float, said: str
) -> None:
    assert re.match(said, verdict_of(name, *gains, min_gain=min_gain).reason)


@pytest.mark.parametrize("share", [0.125, 1.0])
def test_the_level_of_proven_follows_from_its_share_of_the_error(share: float) -> None:
    verdict = verdict_of("proven", 0.6, 0.5, 0.4, share=share)
    assert (1 - verdict.level) / 2 == pytest.approx(error_bounds(2, 3, ERROR * share)[-1])


@given(gains=st.lists(st.floats(-2, 2), min_size=2, max_size=12), min_gain=st.floats(0.1, 1))
def test_proven_judges_what_must_gain_more_like_a_smaller_gain(gains: list[float], min_gain: float) -> None:
    verdict = verdict_of("proven", *gains, min_gain=min_gain)
    without = verdict_of("proven", *(gain - min_gain for gain in gains))
    assert verdict.verdict == without.verdict or abs(without.ci[0]) < 1e-6
    assert f"{min_gain:g}" in verdict.reason


@pytest.mark.parametrize("name", list(JUDGES))
@given(gains=st.lists(st.floats(-2, 2), min_size=2, max_size=12), min_gain=st.floats(0.1, 1))
def test_asking_for_more_never_keeps_more(name: str, gains: list[float], min_gain: float) -> None:
    if verdict_of(name, *gains, min_gain=min_gain).verdict == "keep":
        assert verdict_of(name, *gains).verdict == "keep"


def test_a_single_look_may_use_the_whole_error() -> None:
    assert error_bounds(5, 5, 0.05) == pytest.approx((0.05,), rel=1e-3)


@pytest.mark.parametrize(("first", "last", "error"), [(3, 12, 0.04), (2, 8, 0.01)])
def test_all_looks_together_use_the_error_as_it_is_planned(first: int, last: int, error: float) -> None:
    random, runs, bounds = np.random.default_rng(0), 400_000, error_bounds(first, last, error)
    sums = random.normal(size=(runs, last)).cumsum(1)
    scores = sums[:, first - 1 :] / np.sqrt(np.arange(first, last + 1))
    crossed = np.logical_or.accumulate(scores > -ndtri(bounds), axis=1).mean(0)
    planned = error * (np.arange(first, last + 1) / last) ** EXPONENT
    assert crossed == pytest.approx(planned, abs=4 * (error / runs) ** 0.5)


def test_later_looks_may_use_more_and_larger_errors_have_wider_bounds() -> None:
    bounds = error_bounds(3, 12, 0.04)
    assert list(bounds) == sorted(bounds)
    assert all(wide > narrow for wide, narrow in zip(bounds, error_bounds(3, 12, 0.01), strict=True))
