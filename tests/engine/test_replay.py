"""The walk of a procedure over a history: what it waits for, and what it decides when trainings fail."""

import random
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from statistics import median

import pytest

from buildup.engine.load_state import warnings_of
from buildup.engine.replay import Replay, View, make_replay
from buildup.engine.status import gain_values
from buildup.errors import RunError
from buildup.graph.network import sketch
from buildup.space.schema import SearchSpace
from buildup.statistics.mixed_model import posterior, total_gain
from buildup.store.run_record import RunRecord
from buildup.strategies.registered import STRATEGIES
from buildup.trials.history import History
from buildup.trials.objective import ACCURACY
from buildup.trials.outcome import Epoch, Failure, Outcome, Reason, Score
from buildup.trials.training import training_id

SPACE = SearchSpace(name="test", description="")
BROKEN = Failure(reason=Reason.DIVERGED, message="Traceback\n  somewhere\nThe training loss became nan in epoch 2.")


def replay(seeds: int = 2, judge: str = "point") -> Replay:
    return make_replay(sketch("CC|CC"), SPACE, judge=judge, seeds=seeds, first_seed=7)


def with_outcomes(history: History, candidate_id: str, *outcomes: Outcome) -> History:
    for seed, outcome in enumerate(outcomes, start=7):
        history = history.with_outcome(training_id(candidate_id, seed), outcome)
    return history


def test_the_base_is_waited_for_first_with_every_seed() -> None:
    view = replay().view(History())
    assert view.current is view.candidates[0]
    assert [training.seed for training in view.needed] == [7, 8]
    assert not view.finished


def test_an_epoch_is_no_news_and_an_outcome_is() -> None:
    before, key = History(), training_id("some", 7)
    epoch = before.with_epoch(key, Epoch(number=1, metrics={"accuracy": 60.0}))
    ended = before.with_outcome(key, Score(accuracy=80))
    steps = replay()
    assert [steps.notices(before, later) for later in (before, epoch, ended)] == [False, False, True]


def test_decisions_that_do_not_follow_from_the_settings_are_told_with_what_would() -> None:
    steps = replay(seeds=1)
    history = with_outcomes(History(), steps.base.id, Score(accuracy=80))
    candidate = steps.view(history).current
    assert candidate is not None
    view = steps.view(with_outcomes(history, candidate.id, Score(accuracy=81)))
    other = make_replay(sketch("CC|CC"), replace(SPACE, order="first-last"), judge="point", seeds=1, first_seed=7)
    with pytest.raises(RunError, match=r"step 1 of this run decided on CC\|CM .* CM\|CC .* would be tried"):
        other.view(replace(history, decisions=view.decisions))


def test_a_comparison_over_several_kinds_of_device_says_so(make_run: Callable[..., RunRecord], tmp_path: Path) -> None:
    steps = replay()
    old, new = Score(accuracy=80, device="T4"), Score(accuracy=85, device="A100")
    history = with_outcomes(History(), steps.base.id, old, old)
    candidates = steps.view(history).needed
    same = with_outcomes(history, candidates[0].candidate.id, *[replace(new, device="T4")] * 2)
    mixed = with_outcomes(history, candidates[0].candidate.id, new, old)
    [plain], [marked] = (steps.view(one).decisions for one in (same, mixed))
    assert marked.reason.endswith(
        "; trained on several kinds of device: the candidate on A100 and T4, its parent on T4"
    )
    assert "kinds of device" not in plain.reason
    unknown = with_outcomes(history, candidates[0].candidate.id, *[replace(new, device="")] * 2)
    assert "kinds of device" not in steps.view(unknown).decisions[0].reason
    run = make_run(tmp_path)
    [warning] = warnings_of(run, steps.view(mixed), mixed)
    assert "(T4: the base, step 1; A100: step 1)" in warning
    assert "1 of 1 verdicts compares" in warning
    assert warnings_of(run, steps.view(same), same) == ()


def test_only_the_seeds_that_are_missing_are_waited_for() -> None:
    steps = replay()
    history = with_outcomes(History(), steps.base.id, Score(accuracy=80))
    assert [training.seed for training in steps.view(history).needed] == [8]


def test_a_failed_training_drops_its_candidate_with_the_reason_and_waits_for_no_other_seed() -> None:
    steps = replay()
    history = with_outcomes(History(), steps.base.id, Score(accuracy=80), Score(accuracy=81))
    candidate = steps.view(history).current
    assert candidate is not None
    history = with_outcomes(history, candidate.id, BROKEN)
    decision = steps.view(history).decisions[0]
    assert decision.verdict == "drop"
    assert decision.reason == "dropped: a training of it failed (diverged): The training loss became nan in epoch 2."


def test_a_base_without_any_score_keeps_nothing() -> None:
    steps = replay(seeds=1)
    history = with_outcomes(History(), steps.base.id, BROKEN)
    while (current := steps.view(history).current) is not None:
        history = with_outcomes(history, current.id, Score(accuracy=99))
    view = steps.view(history)
    assert [decision.verdict for decision in view.decisions] == ["drop", "drop"]
    assert "no training of its parent has a score" in view.decisions[0].reason


def test_a_recorded_decision_is_taken_as_it_is() -> None:
    steps = replay(seeds=1)
    history = with_outcomes(History(), steps.base.id, Score(accuracy=80))
    candidate = steps.view(history).current
    assert candidate is not None
    history = with_outcomes(history, candidate.id, Score(accuracy=79))
    decision = steps.view(history).decisions[0]
    assert decision.verdict == "drop"
    recorded = history.with_decision(replace(decision, verdict="keep", reason="kept: decided earlier"))
    assert steps.view(recorded).decisions[0].reason == "kept: decided earlier"
    assert steps.view(recorded).best.id == candidate.id


def test_a_verdict_takes_no_ten_milliseconds_at_a_thousand_trainings() -> None:
    network = sketch("CCCCCC|CCCCCC|CCCCCC|CCCCCC|CCCC")
    steps = make_replay(network, SPACE, strategy=STRATEGIES["exhaustive"], judge="proven", seeds=3)
    history, times, rng = History(), list[float](), random.Random(0)
    while len(history.outcomes) < 1000:
        outcomes: dict[str, Outcome] = dict(history.outcomes)
        for training in steps.view(history).needed:
            correct = rng.randbytes(625)
            outcomes[training.id] = Score(accuracy=80 + rng.gauss(0, 0.5), correct=correct, images=5000)
        history = replace(history, outcomes=outcomes)
        began = time.process_time()
        view = steps.view(history)
        times.append(time.process_time() - began)
        history = replace(history, decisions=view.decisions)
    assert median(times[-50:]) < 0.01


def test_what_is_left_is_counted_for_both_verdicts() -> None:
    view = make_replay(sketch("CCC|CCCC|CCCCCC|CCCC"), SPACE, judge="point", seeds=1).view(History())
    assert view.verdicts_left(kept=False) == 4
    assert view.verdicts_left(kept=True) == 1 + 2 + 3 + 2


def searched(one: Replay, scores: Mapping[str, float]) -> View:
    """The end of a search in which the layouts have these accuracies, and each seed a little more than the last."""
    history = History()
    while not (view := one.view(history)).finished:
        for training in view.needed:
            score = Score(accuracy=scores[training.candidate.layout] + 0.1 * training.seed)
            history = history.with_outcome(training.id, score)
    return view


def test_the_gain_of_the_winner_is_that_of_the_steps_that_led_to_it(
    make_run: Callable[..., RunRecord], tmp_path: Path
) -> None:
    scores = {"CC|CC": 70.0, "CC|CM": 72.0, "CM|CM": 69.0}
    assert replay(seeds=3, judge="likely").view(History()).gain(ACCURACY) is None
    view = searched(replay(seeds=3, judge="likely"), scores)
    assert [made.kept for made in view.decisions] == [True, False]
    gain = view.gain(ACCURACY)
    assert gain is not None
    assert gain.mean == posterior(view.comparisons[0], view.comparisons[1:], ACCURACY.seed_deviation).mean
    assert 1.0 < gain.mean < 2.0
    values = gain_values(make_run(tmp_path / "run", judge="likely"), view)
    assert values is not None
    assert values["low"] < values["estimate"] == gain.mean < values["high"]
    assert gain.probability_above(values["low"]) == pytest.approx(0.975)
    # In a search that does not build up, the interval would not hold.
    assert gain_values(make_run(tmp_path / "random", judge="likely", strategy="random"), view) is None
    # The larger mean of one seed says nothing of chance.
    assert searched(replay(seeds=1, judge="point"), scores).gain(ACCURACY) is None


def test_the_gain_of_a_winner_that_is_two_steps_from_the_base_is_their_sum() -> None:
    view = searched(replay(seeds=3, judge="likely"), {"CC|CC": 70.0, "CC|CM": 72.0, "CM|CM": 74.0})
    assert view.best.layout == "CM|CM"
    gain = view.gain(ACCURACY)
    assert gain is not None
    assert gain.mean == total_gain(view.comparisons, [True, True], ACCURACY.seed_deviation).mean
    assert 2.5 < gain.mean < 4.0


def test_a_winner_that_was_compared_with_the_base_alone_has_that_gain() -> None:
    strategy = STRATEGIES["random"]
    one = make_replay(sketch("CC|CC"), SPACE, strategy=strategy, judge="likely", seeds=3)
    view = searched(one, {"CC|CC": 70.0, "CC|CM": 68.0, "CM|CC": 69.0, "CM|CM": 72.0})
    assert view.best.parent is not None
    assert (view.best.layout, view.best.parent.layout) == ("CM|CM", "CC|CC")
    gain = view.gain(ACCURACY)
    assert gain is not None
    assert 1.0 < gain.mean < 2.0
