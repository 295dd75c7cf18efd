"""How often whole searches err, and that the model of chance is the one that is stated."""

from dataclasses import replace
from statistics import fmean, stdev

import numpy as np
import pytest

from buildup.engine.replay import make_replay
from buildup.graph.network import sketch
from buildup.space.schema import SearchSpace, Tuning
from buildup.statistics.final_test import LEAST_SEEDS
from chance import FINAL_SEEDS, Chance, Study

SPACE = SearchSpace(name="test", description="")


def study(judge: str, chance: Chance, seeds: int = 3, **worth: float) -> Study:
    replay = make_replay(sketch("CC|CC|CC|CC"), SPACE, judge=judge, seeds=seeds)
    return Study(replay=replay, chance=chance, worth={f"{stage}.1": gain for stage, gain in worth.items()})


@pytest.mark.parametrize("deviation", [0.0, 0.4])
def test_drawn_trainings_differ_as_much_as_stated(deviation: float) -> None:
    made = study("likely", Chance(seed_deviation=deviation), c4=0.5)
    draw, base = made.draw("luck", 5000), made.replay.base
    step = made.replay.rule.first
    assert step is not None
    scores = [(draw(step.candidate, seed), draw(base, seed)) for seed in range(300)]
    gains = [ours.accuracy - theirs.accuracy for ours, theirs in scores]
    differing = [
        np.unpackbits(np.frombuffer(ours.correct or b"", np.uint8) ^ np.frombuffer(theirs.correct or b"", np.uint8))
        for ours, theirs in scores
    ]
    assert fmean(float(bits.sum()) / 5000 for bits in differing) == pytest.approx(0.17, abs=0.005)
    assert fmean(gains) == pytest.approx(0.5, abs=0.15)
    assert stdev(gains) == pytest.approx((0.34 + deviation**2) ** 0.5, rel=0.12)


def test_seeds_have_images_of_their_own() -> None:
    draw, base = study("likely", Chance()).draw("luck", 80), study("likely", Chance()).replay.base
    masks = [np.unpackbits(np.frombuffer(draw(base, seed).validated or b"", np.uint8)) for seed in (0, 1)]
    assert [mask.sum() for mask in masks] == [80, 80]
    assert not (np.pad(masks[0], (0, 80)) & masks[1]).any()


def test_proven_keeps_nothing_without_gain_in_95_of_100_searches() -> None:
    # 60 searches: at a true share of 5 % more than 8 of them would be a chance of 1 in 300.
    assert study("proven", Chance(seed_deviation=1.0), 2).tally(60).kept_anything <= 8 / 60


def test_what_likely_keeps_helps() -> None:
    found = replace(study("likely", Chance()), gains=(0.0, 0.5), claims=False).tally(40)
    assert found.kept >= 20, "hardly anything was kept, so nothing was tested"
    assert found.kept_helping >= 0.8
    assert abs(found.bias) < 0.25


def test_the_gain_of_the_winner_is_corrected_for_the_selection_of_its_steps() -> None:
    found = replace(study("likely", Chance(seed_deviation=0.4)), gains=(0.0, 0.5), claims=False).tally(40)
    assert found.kept_anything > 0.5
    assert found.plain_bias > 0.1, "the mean over seeds is not too large here, so nothing was tested"
    assert abs(found.bias) < found.plain_bias
    # At a true share of 95 %, less than 80 % of 20 or more would be a chance of 1 in 100.
    assert found.covered >= 0.8


def test_proven_finds_one_point_and_likely_finds_small_steps() -> None:
    assert study("proven", Chance(), c4=1.0).tally(30).kept_true >= 0.8
    small = study("likely", Chance(), c1=0.4, c2=0.4, c3=0.4, c4=0.4).tally(20)
    assert small.kept_true >= 0.25
    assert small.claimed >= 0.4


def test_settings_that_do_not_help_are_counted_as_kept_falsely() -> None:
    tuned = replace(SPACE, tune=Tuning(window=(2, 4), kind=("M", "G"), tries=3))
    replay = make_replay(sketch("CC|CC"), tuned, judge="likely", seeds=3)
    found = Study(replay=replay, chance=Chance(), worth={"c2.1": 2.0}).tally(20)
    assert found.kept_true == 1.0
    assert found.kept_false < 0.5


@pytest.mark.slow
@pytest.mark.parametrize("tries", [2, 4])
def test_proven_keeps_its_promise_where_settings_are_searched_too(tries: int) -> None:
    tuned = replace(SPACE, tune=Tuning(window=(1, 2), kind=("M", "G"), tries=tries))
    replay = make_replay(sketch("CCCC|CCCC"), tuned, judge="proven", seeds=3)
    found = Study(replay=replay, chance=Chance(seed_deviation=0.4), worth={"c2.3": 1.0}).tally(1000)
    assert found.kept_true > 0.8
    assert found.kept_false <= 0.05


@pytest.mark.slow
@pytest.mark.parametrize("seeds", [2, 3])
@pytest.mark.parametrize(
    "chance", [Chance(seed_deviation=0.4), Chance(own_images=0.1), Chance(seed_deviation=1), Chance(seed_deviation=2)]
)
def test_proven_keeps_the_promise_of_five_percent_over_many_searches(chance: Chance, seeds: int) -> None:
    assert study("proven", chance, seeds).tally(2000).kept_anything <= 0.05


@pytest.mark.slow
@pytest.mark.parametrize("seeds", [LEAST_SEEDS, FINAL_SEEDS])
@pytest.mark.parametrize("deviation", [0.4, 1.0, 2.0])
def test_a_gain_that_is_not_there_is_claimed_in_at_most_5_of_100_draws(seeds: int, deviation: float) -> None:
    replay = make_replay(sketch("CC|CC"), SPACE, judge="likely", seeds=3)
    repeated, first = Study(replay=replay, chance=Chance(seed_deviation=deviation)), replay.rule.first
    assert first is not None
    claims = [repeated.claim(first.candidate, (), f"{draw}", seeds) for draw in range(1000)]
    assert sum(made.claimed for made in claims) <= 50
