"""Guesses order what idle workers train, and touch no verdict."""

import random
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from buildup.graph.network import sketch
from buildup.rules.prior import Prior
from buildup.rules.strategies import procedure_of
from buildup.search.loop import Silence, run
from buildup.search.table import Memory, Row, TableEvaluator
from buildup.space.load import load
from buildup.trials.decision import Decision
from buildup.trials.history import History
from buildup.trials.training import Training

CONTROL = "CCC|CCCC|CCCC"
PLACES = ("c1.2", "c2.3", "c2.1", "c3.3", "c3.1", "elsewhere")
PRIORS = st.dictionaries(st.sampled_from(PLACES), st.sampled_from((0.0, 0.2, 0.5, 0.9, 1.0)))


class AnyScores(dict[str, Row]):
    """A table that knows every layout."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.seed = seed

    def get(self, layout: str, default: object = None) -> Row:
        return Row(score=80 + random.Random(f"{self.seed}/{layout}").random())


class Watched(TableEvaluator):
    """Remembers what was wanted first."""

    first: tuple[str, ...] = ()

    def want(self, wanted: Sequence[Training]) -> None:
        if not self.first and wanted and wanted[0].candidate.parent:
            self.first = tuple(training.candidate.layout for training in wanted)
        super().want(wanted)


def search(
    seed: int, workers: int, prior: Prior, *, judge: str = "point", seeds: int = 1
) -> tuple[tuple[Decision, ...], Watched]:
    procedure = procedure_of(sketch(CONTROL), load("alternet"), judge=judge, seeds=seeds)
    evaluator = Watched(table=AnyScores(seed), workers=workers, noise=0.3)
    asked: list[History] = []

    def foretell(history: History) -> Prior:
        asked.append(history)
        return prior

    nothing = (lambda _: None, lambda _: None)
    view, _ = run(procedure, evaluator, Memory(), Silence(), History(), *nothing, foretell)
    assert len(asked) == 1
    assert len(asked[0].outcomes) >= seeds
    return view.decisions, evaluator


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 999), st.sampled_from((1, 2, 5, 16)), PRIORS, st.sampled_from(("point", "likely")))
def test_decisions_are_the_same_with_any_guess_and_any_workers(
    seed: int, workers: int, prior: dict[str, float], judge: str
) -> None:
    seeds = 1 if judge == "point" else 2
    plain, _ = search(seed, 1, {}, judge=judge, seeds=seeds)
    foretold, _ = search(seed, workers, prior, judge=judge, seeds=seeds)
    assert foretold == plain


def test_a_guess_turns_what_is_trained_ahead() -> None:
    _, kept = search(0, 3, {"c3.3": 0.9})
    _, dropped = search(0, 3, {"c3.3": 0.1})
    current = "CCC|CCCC|CCCM"
    assert kept.first[:2] == (current, "CCC|CCCC|CMCM")
    assert dropped.first[:2] == (current, "CCC|CCCM|CCCC")


@pytest.mark.parametrize("workers", [2, 3, 8])
def test_whoever_knows_the_verdicts_is_not_slower(workers: int) -> None:
    plain, known = 0.0, 0.0
    for seed in range(12):
        decisions, evaluator = search(seed, workers, {})
        verdicts = {decision.edit.partition(":")[0]: float(decision.kept) for decision in decisions}
        plain += evaluator.clock
        known += search(seed, workers, verdicts)[1].clock
    assert known <= plain
