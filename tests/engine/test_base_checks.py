"""The checks of the base in a search: when they run, and that no verdict depends on them."""

from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from buildup.engine.forecast import forecast
from buildup.engine.load_state import replay_of
from buildup.engine.loop import run_loop
from buildup.engine.replay import Replay, View, make_replay
from buildup.engine.setup import create_writer, job_maker
from buildup.execution.simulated import InMemoryWriter, ScoreRow, SimulatedEvaluator
from buildup.graph.network import sketch
from buildup.models.read import read_network
from buildup.report.text_table import decisions_table
from buildup.space.load import load
from buildup.store.run_record import RunRecord, create_run_dir
from buildup.store.study_reader import read_history
from buildup.trials.history import History
from buildup.trials.outcome import Epoch, Failure, Reason
from buildup.trials.training import CHECKS, USUAL_CHECKS, Candidate, Training, check_id, training_id

MakeRun = Callable[..., RunRecord]
STEPS = make_replay(sketch("CC|CC"), load("alternet"), judge="likely", seeds=2, first_seed=7, checks=USUAL_CHECKS)
LONGER, ROUNDED = (training_id(check_id(STEPS.base.id, check), 7) for check in ("longer", "rounding"))


def table(training: Training) -> ScoreRow:
    """Each M gains 3 points and longer training 9; rounding costs 1."""
    candidate = training.candidate
    score = 60.0 + 3 * candidate.layout.count("M") + 9 * (candidate.check == "longer") - (candidate.check == "rounding")
    return ScoreRow(score=score, seconds=1.5 if candidate.check == "longer" else 1.0)


def searched(steps: Replay, workers: int, history: History | None = None) -> tuple[View, History, float]:
    evaluator = SimulatedEvaluator(table=table, workers=workers)
    view, history = run_loop(steps, evaluator, InMemoryWriter(), history or History())
    return view, history, evaluator.clock


@pytest.mark.parametrize("workers", [1, 2, 3, 8])
def test_checks_change_no_verdict_and_end_with_the_search(workers: int) -> None:
    view, history, _ = searched(STEPS, workers)
    without, _, _ = searched(replace(STEPS, checks=()), workers)
    assert view.ended
    assert view.decisions == without.decisions
    assert {LONGER, ROUNDED} <= history.outcomes.keys()
    assert view.climb is not None
    assert view.rounding is not None
    assert view.climb.gain == pytest.approx(9.0)
    assert view.rounding.difference == pytest.approx(-1.0)
    assert without.climb is None
    assert without.rounding is None


def test_one_worker_makes_all_verdicts_first() -> None:
    _, history, clock = searched(STEPS, 1)
    assert list(history.outcomes)[-2:] == [LONGER, ROUNDED]
    assert clock == searched(replace(STEPS, checks=()), 1)[2] + 2.5


def test_free_workers_train_them_beside_the_base() -> None:
    _, history, clock = searched(STEPS, 16)
    assert {LONGER, ROUNDED} <= history.outcomes.keys()
    assert clock < searched(replace(STEPS, checks=()), 16)[2] + 1.5


def test_a_search_that_ended_without_it_goes_on_with_it_alone() -> None:
    whole, history, _ = searched(STEPS, 2)
    left = {key: outcome for key, outcome in history.outcomes.items() if key != LONGER}
    view = STEPS.view(replace(history, outcomes=left, decisions=whole.decisions))
    assert view.finished
    assert not view.ended
    assert [training.id for training in view.checks] == [LONGER]
    again, _, clock = searched(STEPS, 2, replace(history, outcomes=left, decisions=whole.decisions))
    assert (again.climb, clock) == (whole.climb, 1.5)


def test_a_longer_training_that_failed_says_nothing_and_is_not_tried_again() -> None:
    whole, history, _ = searched(STEPS, 2)
    failed = Failure(reason=Reason.DIVERGED, message="The loss became nan.")
    view = STEPS.view(history.with_outcome(LONGER, failed))
    assert view.ended
    assert view.climb is None
    assert view.decisions == whole.decisions


def test_verdicts_on_less_than_the_climb_are_marked_in_the_table() -> None:
    view, _, _ = searched(STEPS, 2)
    assert any(decision.kept for decision in view.decisions)
    marked = [line.endswith("still climbing") for line in decisions_table(view.decisions, view.climb).splitlines()]
    assert marked == [False, *(True for _ in view.decisions)]
    assert "climbing" not in decisions_table(view.decisions)


@pytest.mark.parametrize(
    ("gains", "mark", "said"),
    [
        ({"longer": 4.0, "rate": 12.0, "fresh": 6.0}, "low rate", "at 3 times the rate the base gains +12.00"),
        ({"longer": 4.0, "rate": 1.0, "fresh": 6.0}, "new weights", "its last block drawn anew the base gains +6.00"),
        ({"longer": 8.0, "rate": -20.0, "fresh": -9.0}, "still climbing", "with 1.5 times the epochs it gains +8.00"),
    ],
)
def test_what_gains_most_for_a_pretrained_base_stands_beside_the_verdicts(
    gains: dict[str, float], mark: str, said: str
) -> None:
    def scored(training: Training) -> ScoreRow:
        one = training.candidate
        return ScoreRow(score=60.0 + one.layout.count("M") + gains.get(one.check or "", 0.0))

    steps = replace(STEPS, checks=tuple(CHECKS))
    view, _ = run_loop(steps, SimulatedEvaluator(table=scored, workers=3), InMemoryWriter(), History())
    assert view.ended
    assert view.climb is not None
    assert said in (view.climb.warning(view.decisions) or "")
    assert mark in decisions_table(view.decisions, view.climb)


def test_only_pretrained_weights_are_checked_for_their_rate_and_for_new_weights(
    make_run: MakeRun, tmp_path: Path
) -> None:
    def checks(**changes: Any) -> tuple[str, ...]:
        return replay_of(make_run(tmp_path, **changes)).checks

    assert checks(no_base_checks=False) == ("longer", "rounding")
    assert checks(pretrained="a.safetensors", no_base_checks=False) == ("longer", "rounding", "rate", "fresh")
    assert checks(pretrained="a.safetensors", no_base_checks=True) == ()


def test_a_study_with_all_checks_is_read_as_it_was_written(make_run: MakeRun, tmp_path: Path) -> None:
    network = read_network("test_resnet", input_shape=(1, 16, 16), num_classes=10)
    asked = {"pretrained": "a.safetensors", "no_base_checks": False, "judge": "likely", "seeds": 2}
    run = make_run(tmp_path / "run", network=network, **asked)
    create_run_dir(run)
    steps = replay_of(run)
    with closing(create_writer(run)) as writer:
        evaluator = SimulatedEvaluator(table=table, workers=2)
        view, history = run_loop(steps, evaluator, writer, writer.history)
    assert view.ended
    read = read_history(run.folder, None, run.study_name)
    assert read.outcomes.keys() == history.outcomes.keys()
    checks = {training_id(check_id(steps.base.id, check), steps.first_seed) for check in CHECKS}
    assert checks <= read.outcomes.keys()


def test_the_jobs_of_the_checks_change_one_thing_each(make_run: MakeRun, tmp_path: Path) -> None:
    run = make_run(tmp_path)
    base = Candidate(network=run.network)
    make = job_maker(run)
    usual, longer, rounding, rate, fresh = (
        make(Training(candidate=replace(base, check=check), seed=0), tmp_path, ()) for check in (None, *CHECKS)
    )
    assert longer == replace(usual, recipe=longer.recipe)
    assert longer.recipe == usual.recipe.with_epochs(21)
    assert rounding == replace(usual, nudged=True)
    assert rate == replace(usual, recipe=replace(usual.recipe, lr=3 * usual.recipe.lr))
    assert fresh == replace(usual, renewed=True)


def test_the_forecast_of_the_last_training_has_its_own_number_of_epochs() -> None:
    whole, history, _ = searched(STEPS, 1)
    left = {key: outcome for key, outcome in history.outcomes.items() if key != LONGER}
    curve = tuple(Epoch(number=number, metrics={"seconds": 3.0}) for number in range(1, 11))
    reached = History(outcomes=left, curves={LONGER: curve}, decisions=whole.decisions)
    found = forecast(STEPS, STEPS.view(reached), reached, workers=1, epochs=20)
    assert found is not None
    assert found.seconds == pytest.approx(20 * 3.0, rel=1e-4)
    assert found.trainings == 1
