import os
import time
from itertools import pairwise
from pathlib import Path

import pytest

import search
from buildup.engine.loop import run_loop
from buildup.engine.replay import Replay
from buildup.execution.simulated import InMemoryWriter, ScoreRow, SimulatedEvaluator
from buildup.graph.network import sketch
from buildup.space.schema import SearchSpace
from buildup.statistics.judges import JUDGES
from buildup.strategies.fixed_order import exhaustive
from buildup.trials.history import History
from buildup.trials.outcome import Score
from buildup.trials.training import Candidate
from search import LAYOUT, main, rehearse, times


def slept(worker: int, *spans: tuple[float, float]) -> list[Score]:
    return [Score(accuracy=50, metrics={"pid": worker, "began": first, "ended": last}) for first, last in spans]


def test_the_busy_share_counts_what_was_slept_after_all_workers_had_begun() -> None:
    scores = slept(1, (10, 11), (11, 12), (12.5, 13.5)) + slept(2, (11, 12), (12, 13.5))
    start_up, busy, handovers = times(scores, 2, 1.0, began=4.0)
    assert start_up == 7.0
    assert busy == pytest.approx((1 + 1 + 1 + 1) / (2 * 2.5))
    assert sorted(handovers) == [0.0, 0.0, 0.5]


@pytest.mark.slow
def test_a_rehearsal_on_real_workers_measures_each_part_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # As a script its functions travel by value; here Ray's workers must find the module.
    monkeypatch.setenv("PYTHONPATH", str(Path(search.__file__).parent), prepend=os.pathsep)
    found = rehearse(tmp_path / "run", workers=2, seconds=0.2, epochs=3, marks=(6, 12))
    assert found.trials == 12
    assert 0 < found.busy <= 1
    assert 0 < found.handover <= found.longest_handover
    assert [cost.trials for cost in found.costs] == [6, 12]
    for cost in found.costs:
        assert cost.tune > 0
        assert cost.optuna >= cost.optuna_cpu > 0
        assert cost.rule > 0


@pytest.mark.slow
def test_rule_and_scheduler_take_at_most_five_milliseconds_a_training_up_to_ten_thousand() -> None:
    rule = exhaustive(Candidate(network=sketch(LAYOUT)), SearchSpace(name="all", description=""), 0)
    replay = Replay(rule=rule, judge=JUDGES["point"], seeds=27)
    evaluator = SimulatedEvaluator(table={}, workers=8, noise=0.5, default=ScoreRow(score=70.0))
    clock = [time.process_time()]

    def limit(history: History) -> str | None:
        if len(history.outcomes) >= 1000 * len(clock):
            clock.append(time.process_time())
        return "enough" if len(clock) > 10 else None

    run_loop(replay, evaluator, InMemoryWriter(), History(), limit=limit)
    slowest = max(after - before for before, after in pairwise(clock))
    assert slowest / 1000 <= 0.005


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [(["--seconds", "0"], "--seconds 0"), (["--trials", "8"], "--trials 8: a whole number from 32")],
)
def test_wrong_requests_are_refused(arguments: list[str], expected: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    said = capsys.readouterr()
    assert expected in said.err
    assert said.out == ""
