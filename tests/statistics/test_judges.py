"""What the judges keep, and when they want to see more."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import ndtri

from buildup.statistics.judges import ERROR, INTERIM_ANALYSES, INTERIM_SHARES, JUDGES, PROVEN_FUTILITY
from buildup.statistics.paired_difference import Pair, PooledVariance
from buildup.trials.decision import Verdict
from buildup.trials.outcome import Score

LAST = len(INTERIM_ANALYSES)


def pairs_of(*gains: float) -> list[Pair]:
    return [Pair(candidate=Score(accuracy=80 + gain), parent=Score(accuracy=80)) for gain in gains]


def answer_of(name: str, pairs: list[Pair], interim: int = 1, share: float = 0.25) -> Verdict | None:
    return JUDGES[name].judge(pairs, interim, share, PooledVariance())


def verdict_of(name: str, pairs: list[Pair], share: float = 0.25) -> Verdict:
    verdict = answer_of(name, pairs, len(JUDGES[name].looks), share)
    assert verdict is not None
    return verdict


def test_point_keeps_the_larger_mean_and_says_that_chance_is_not_ruled_out() -> None:
    verdict = verdict_of("point", pairs_of(0.11))
    assert verdict.verdict == "keep"
    assert "chance is not ruled out" in verdict.reason


def test_point_drops_a_tie() -> None:
    assert verdict_of("point", pairs_of(0.0)).verdict == "drop"


@pytest.mark.parametrize("name", list(JUDGES))
@given(gains=st.lists(st.floats(-5, 5), min_size=2, max_size=12), interim=st.integers(1, LAST))
def test_interval_and_verdict_never_disagree(name: str, gains: list[float], interim: int) -> None:
    verdict = answer_of(name, pairs_of(*gains), interim)
    if verdict is None:
        assert interim < len(JUDGES[name].looks)
        return
    assert (verdict.verdict == "keep") == (verdict.ci[0] > 0)
    assert verdict.ci[0] <= verdict.gain <= verdict.ci[1]
    assert verdict.reason.startswith("kept" if verdict.verdict == "keep" else "dropped")


@pytest.mark.parametrize("name", list(JUDGES))
@given(gains=st.lists(st.floats(-5, 5), min_size=2, max_size=8))
def test_a_verdict_does_not_depend_on_the_order_of_the_seeds(name: str, gains: list[float]) -> None:
    assert verdict_of(name, pairs_of(*gains)).verdict == verdict_of(name, pairs_of(*reversed(gains))).verdict


@pytest.mark.parametrize("name", ["likely", "proven"])
def test_a_judge_looks_again_where_more_seeds_may_change_its_mind(name: str) -> None:
    assert answer_of(name, pairs_of(0.2, 0.1, 0.1)) is None
    assert answer_of(name, pairs_of(-0.2, -0.1, 0.1)) is not None


def test_what_is_still_open_at_the_last_look_is_dropped_as_undecided() -> None:
    verdict = verdict_of("proven", pairs_of(*[0.3, 0.2] * 6))
    assert verdict.verdict == "drop"
    assert verdict.reason.startswith("dropped as undecided: +0.25 points are not enough to tell a gain from chance")


def test_proven_wants_more_than_likely() -> None:
    pairs = pairs_of(0.6, 0.5, 0.7)
    assert verdict_of("likely", pairs).verdict == "keep"
    assert verdict_of("proven", pairs).verdict == "drop"


def test_the_level_of_proven_follows_from_its_share_of_the_error() -> None:
    levels = [verdict_of("proven", pairs_of(0.6, 0.5), share).level for share in (0.125, 0.25, 1.0)]
    assert levels == sorted(levels, reverse=True)
    assert 1 - levels[2] == pytest.approx(8 * (1 - levels[0]))


@pytest.mark.parametrize("name", list(JUDGES))
@given(gains=st.lists(st.floats(-2, 2), min_size=2, max_size=12), min_gain=st.floats(0.1, 1))
def test_what_must_gain_more_is_judged_like_a_smaller_gain(name: str, gains: list[float], min_gain: float) -> None:
    asking = replace(JUDGES[name], min_gain=min_gain)
    interim = len(asking.looks)
    verdict = asking.judge(pairs_of(*gains), interim, 0.25, PooledVariance())
    without = verdict_of(name, pairs_of(*(gain - min_gain for gain in gains)))
    assert verdict is not None
    assert verdict.verdict == without.verdict or abs(without.ci[0]) < 1e-9
    assert f"{min_gain:g}" in verdict.reason


@pytest.mark.parametrize("parts", [1, 4, 16, 70])
def test_all_looks_together_use_no_more_than_a_candidates_part_of_the_error(parts: int) -> None:
    error, drawn_at = ERROR / parts, 1.6
    random = np.random.default_rng(0)
    # Seeds of the first look, those that the second adds, and those of the third: sums in units of the first.
    new = [random.normal(more * drawn_at, more**0.5, 400_000) for more in (1, 1, 2)]
    # Drawn where a gain is seen often, and weighted by how much rarer it is where there is none.
    weights = np.exp(-drawn_at * sum(new) + 2 * drawn_at**2)
    first, second, third = (np.cumsum(new, axis=0).T / np.sqrt(INTERIM_ANALYSES)).T
    kept = [z > ndtri(1 - error * share) for z, share in zip((first, second, third), INTERIM_SHARES, strict=True)]
    hopes = [z > ndtri(hope) for z, hope in zip((first, second), PROVEN_FUTILITY, strict=True)]
    anywhere = kept[0] | hopes[0] & (kept[1] | hopes[1] & kept[2])
    used = float((anywhere * weights).mean()) / error
    assert 0.7 < used < 1.02
