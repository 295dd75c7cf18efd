"""The checks of the base in a search: when they run, and that no verdict depends on them."""

from dataclasses import replace

import pytest

from buildup.engine.forecast import forecast
from buildup.engine.loop import NullObserver, run_loop
from buildup.engine.replay import Replay, View, make_replay
from buildup.execution.simulated import InMemoryWriter, ScoreRow, SimulatedEvaluator
from buildup.graph.network import sketch
from buildup.report.text_table import decisions_table
from buildup.space.load import load
from buildup.trials.history import History
from buildup.trials.outcome import Epoch, Failure, Reason
from buildup.trials.training import Training, check_id, training_id

STEPS = make_replay(sketch("CC|CC"), load("alternet"), judge="likely", seeds=2, first_seed=7, checks=True)
LONGER, ROUNDED = (training_id(check_id(STEPS.base.id, check), 7) for check in ("longer", "rounding"))


def table(training: Training) -> ScoreRow:
    """Each M gains 3 points and longer training 9; rounding costs 1."""
    candidate = training.candidate
    score = 60.0 + 3 * candidate.layout.count("M") + 9 * (candidate.check == "longer") - (candidate.check == "rounding")
    return ScoreRow(score=score, seconds=1.5 if candidate.check == "longer" else 1.0)


def searched(steps: Replay, workers: int, history: History | None = None) -> tuple[View, History, float]:
    evaluator = SimulatedEvaluator(table=table, workers=workers)
    view, history = run_loop(steps, evaluator, InMemoryWriter(), NullObserver(), history or History())
    return view, history, evaluator.clock


@pytest.mark.parametrize("workers", [1, 2, 3, 8])
def test_checks_change_no_verdict_and_end_with_the_search(workers: int) -> None:
    view, history, _ = searched(STEPS, workers)
    without, _, _ = searched(replace(STEPS, checks=False), workers)
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
    assert clock == searched(replace(STEPS, checks=False), 1)[2] + 2.5


def test_free_workers_train_them_beside_the_base() -> None:
    _, history, clock = searched(STEPS, 16)
    assert {LONGER, ROUNDED} <= history.outcomes.keys()
    assert clock < searched(replace(STEPS, checks=False), 16)[2] + 1.5


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


def test_the_forecast_of_the_last_training_has_its_own_number_of_epochs() -> None:
    whole, history, _ = searched(STEPS, 1)
    left = {key: outcome for key, outcome in history.outcomes.items() if key != LONGER}
    curve = tuple(Epoch(number=number, metrics={"seconds": 3.0}) for number in range(1, 11))
    reached = History(outcomes=left, curves={LONGER: curve}, decisions=whole.decisions)
    found = forecast(STEPS, STEPS.view(reached), reached, workers=1, epochs=20)
    assert found is not None
    assert found.seconds == pytest.approx(20 * 3.0, rel=1e-4)
    assert found.trainings == 1
