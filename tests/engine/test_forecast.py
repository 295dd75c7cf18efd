"""Forecasts of the time that is left, compared with the simulated clock."""

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from statistics import fmean

import pytest

from buildup.engine.forecast import forecast
from buildup.engine.loop import run_loop
from buildup.engine.replay import Replay, View, make_replay
from buildup.execution.simulated import InMemoryWriter, ScoreRow, SimulatedEvaluator
from buildup.graph.network import sketch
from buildup.space.load import load
from buildup.strategies.registered import STRATEGIES
from buildup.trials.event import Event
from buildup.trials.history import History
from buildup.trials.outcome import Epoch
from buildup.trials.training import Training

EPOCHS = 20
CONTROL = "CCC|CCCC|CCCCCC|CCCC"


def any_scores(seed: int) -> Callable[[Training], ScoreRow]:
    """A table that knows every layout, and trainings of half a minute to two minutes."""

    def look(training: Training) -> ScoreRow:
        times = random.Random(f"{seed}/{training.id}/seconds").uniform(0.5, 2.0)
        chance = random.Random(f"{seed}/{training.candidate.layout}").random()
        return ScoreRow(score=80 + chance, seconds=60.0 * times)

    return look


@dataclass
class Diary:
    """Remembers a search with its clock, and how far its trainings were."""

    evaluator: SimulatedEvaluator
    pages: list[tuple[float, View, History]] = field(default_factory=list)

    def see(self, view: View, history: History, event: Event | None) -> None:
        clock, curves = self.evaluator.clock, {}
        for key, (since, training) in self.evaluator._running.items():
            each = self.evaluator._look_up(training).seconds / EPOCHS
            done = int((clock - since) / each)
            curves[key] = tuple(Epoch(number=number + 1, metrics={"seconds": each}) for number in range(done))
        kept = History(outcomes=history.outcomes, decisions=view.decisions, curves=curves)
        self.pages.append((clock, view, kept))


def followed(replay: Replay, *, seed: int, workers: int, noise: float = 0.0) -> Diary:
    evaluator = SimulatedEvaluator(table=any_scores(seed), workers=workers, seed=seed, noise=noise)
    diary = Diary(evaluator=evaluator)
    run_loop(replay, evaluator, InMemoryWriter(), History(), [diary])
    return diary


def errors(strategy: str, judge: str, *, workers: int, tables: int) -> Iterator[tuple[float, bool]]:
    """After a tenth of each search: by which share its end is foreseen too late, and whether the span has it."""
    for seed in range(tables):
        steps = make_replay(
            sketch(CONTROL), load("paper"), strategy=STRATEGIES[strategy], judge=judge, seeds=3, first_seed=seed
        )
        diary = followed(steps, seed=seed, workers=workers, noise=0.3)
        end = diary.evaluator.clock
        clock, view, history = next(page for page in diary.pages if page[0] >= end / 10)
        found = forecast(steps, view, history, workers=workers, epochs=EPOCHS)
        assert found is not None
        yield (clock + found.seconds) / end - 1, found.low <= end - clock <= found.high


@pytest.mark.parametrize("workers", [1, 8])
def test_after_a_tenth_the_end_of_a_search_of_known_length_is_foreseen_within_a_fifth(workers: int) -> None:
    found = [error for error, _ in errors("random", "point", workers=workers, tables=10)]
    assert abs(fmean(found)) < 0.1
    assert fmean(abs(error) < 0.2 for error in found) >= 0.7


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2, 8])
def test_where_verdicts_decide_the_length_most_ends_are_foreseen_within_a_fifth(workers: int) -> None:
    found = list(errors("alternet", "point", workers=workers, tables=60))
    assert abs(fmean(error for error, _ in found)) < 0.2
    assert fmean(abs(error) < 0.2 for error, _ in found) >= 0.5
    assert fmean(covered for _, covered in found) >= 0.7


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 8])
def test_where_later_looks_decide_the_length_too_the_span_holds_most_ends(workers: int) -> None:
    found = list(errors("alternet", "likely", workers=workers, tables=60))
    assert fmean(covered for _, covered in found) >= 0.55
    assert abs(fmean(error for error, _ in found)) < 0.35


def test_nothing_is_foreseen_before_an_epoch_or_after_the_end() -> None:
    steps = make_replay(sketch("CC|CC"), load("alternet"), judge="point", seeds=2)
    pages = followed(steps, seed=0, workers=2).pages
    assert forecast(steps, pages[0][1], pages[0][2], workers=2, epochs=EPOCHS) is None
    assert forecast(steps, pages[-1][1], pages[-1][2], workers=2, epochs=EPOCHS) is None


def test_what_a_later_look_asks_for_is_still_to_come() -> None:
    seen = 0
    for seed in range(4):
        steps = make_replay(sketch("CC|CC|CC|CC"), load("alternet"), judge="likely", seeds=2)
        for _, view, history in followed(steps, seed=seed, workers=2, noise=1.0).pages:
            asked = [training for training in view.needed if training.id not in history.outcomes]
            if view.seeds > steps.seeds and asked:
                found = forecast(steps, view, history, workers=2, epochs=EPOCHS)
                assert found is not None
                assert found.trainings >= len(asked)
                seen += 1
    assert seen > 5


def test_the_last_training_is_what_is_left_of_it() -> None:
    steps = make_replay(sketch("CC"), load("alternet"), judge="point", seeds=1)
    outcomes = dict(followed(steps, seed=0, workers=1).pages[-1][2].outcomes)
    last = steps.view(History(outcomes=dict(list(outcomes.items())[:1]))).needed[0].id
    del outcomes[last]
    others = (Epoch(number=number, metrics={"seconds": 3.0}) for number in range(2, 16))
    warming_up = Epoch(number=1, metrics={"seconds": 30.0})
    history = History(outcomes=outcomes, curves={last: (warming_up, *others)})
    found = forecast(steps, steps.view(history), history, workers=4, epochs=EPOCHS)
    assert found is not None
    assert found.seconds == pytest.approx(5 * 3.0, rel=1e-4)
    assert found.trainings == 1


def test_a_long_search_is_counted_not_simulated() -> None:
    steps = make_replay(sketch(CONTROL), load("paper"), strategy=STRATEGIES["exhaustive"], judge="point", seeds=4)
    diary = followed(steps, seed=0, workers=4)
    clock, view, history = diary.pages[50]
    found = forecast(steps, view, history, workers=4, epochs=EPOCHS)
    assert found is not None
    assert clock + found.seconds == pytest.approx(diary.evaluator.clock, rel=0.2)
    assert found.low < found.seconds < found.high
