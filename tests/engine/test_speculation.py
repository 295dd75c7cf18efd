"""What is trained ahead of a verdict, by what the judge would say to likely scores. Decisions do not depend on it."""

import random
from dataclasses import replace

import pytest

from buildup.engine.loop import run_loop
from buildup.engine.replay import Replay, View, make_replay
from buildup.execution.simulated import InMemoryWriter, ScoreRow, SimulatedEvaluator
from buildup.graph.network import sketch
from buildup.space.load import load
from buildup.trials.history import History
from buildup.trials.training import Training

STEPS = make_replay(sketch("CC|CC|CC|CC"), load("alternet"), judge="likely", seeds=3)


def searched(steps: Replay, workers: int, number: int, gain: float, noise: float = 0.5) -> tuple[View, History, float]:
    """A search on scores that are drawn, with the true gains of its blocks around this one."""

    def drawn(name: str) -> float:
        return random.Random(f"{number}/{name}").gauss(0, 1)

    def table(training: Training) -> ScoreRow:
        candidate = training.candidate
        true = 60 + (gain if candidate.parent else 0) + 0.5 * drawn(candidate.id)
        return ScoreRow(score=true + noise * drawn(training.id), seconds=1 + 0.05 * drawn(f"time {training.id}"))

    evaluator = SimulatedEvaluator(table=table, workers=workers)
    view, history = run_loop(steps, evaluator, InMemoryWriter(), History())
    return view, history, evaluator.clock


def further_seeds(foresees: bool) -> int:
    """How many trainings of later looks have ended in searches whose candidates clearly lose."""
    steps = replace(STEPS, foresees=foresees)
    outcomes = [one for number in range(10) for one in searched(steps, 2, number, gain=-5.0)[1].outcomes]
    return sum(int(one.rpartition("s")[2]) >= STEPS.seeds for one in outcomes)


def test_hardly_any_further_seed_is_trained_of_what_clearly_loses() -> None:
    assert further_seeds(foresees=True) < further_seeds(foresees=False) / 2


@pytest.mark.parametrize("workers", [2, 4, 8])
def test_searches_are_shorter_and_decide_the_same(workers: int) -> None:
    spent = {True: 0.0, False: 0.0}
    for number in range(10):
        views = []
        for foresees in spent:
            view, _, seconds = searched(replace(STEPS, foresees=foresees), workers, number, gain=-0.3)
            views.append(view)
            spent[foresees] += seconds
        assert views[0].decisions == views[1].decisions
    assert spent[True] < 0.98 * spent[False]
