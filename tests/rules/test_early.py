import heapq
import random
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import reduce
from operator import add

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from buildup.commands.dropping import risks
from buildup.graph.network import sketch
from buildup.rules.base import Procedure, View
from buildup.rules.curves import Learning, count, trained
from buildup.rules.early import ENOUGH, EarlyDrop, Lesson, foretell, pair
from buildup.rules.judge import JUDGES
from buildup.rules.listed import at_random
from buildup.search.evaluate import Ended, EpochDone, Event
from buildup.search.loop import Silence, run
from buildup.search.table import Memory
from buildup.space.schema import SearchSpace
from buildup.trials.candidate import Candidate
from buildup.trials.history import History
from buildup.trials.outcome import Epoch, Failure, Reason, Record
from buildup.trials.training import Training

EARLY = EarlyDrop(risk=0.05, epochs=8)
BASE = Candidate(network=sketch(f"CCC|CCCC|{23 * 'C'}|CCC"))


def searching(judge: str = "likely", early: EarlyDrop | None = EARLY) -> Procedure:
    rule = at_random(BASE, SearchSpace(name="layouts", description=""), 1)
    return Procedure(rule=rule, judge=JUDGES[judge], seeds=2, early=early)


@dataclass(kw_only=True)
class CurveEvaluator:
    """Virtual workers that tell drawn curves epoch by epoch; an epoch takes as long as its training's speed says."""

    workers: int
    luck: str
    epochs: int = 8
    told: int = 0
    clock: float = 0.0
    _running: dict[str, tuple[Training, list[Epoch]]] = field(default_factory=dict)
    _due: list[tuple[float, str]] = field(default_factory=list)
    _stopped: list[Training] = field(default_factory=list)
    _left: dict[str, list[Epoch]] = field(default_factory=dict)

    def want(self, wanted: Sequence[Training]) -> None:
        keep = {training.id for training in wanted}
        for key in [key for key in self._running if key not in keep]:
            training, rest = self._running.pop(key)
            self._left[key] = rest
            self._stopped.append(training)
        for training in wanted:
            if len(self._running) < self.workers and training.id not in self._running:
                rest = self._left.get(training.id) or list(self.curve(training))
                self._running[training.id] = (training, rest)
                heapq.heappush(self._due, (self.clock + self.pace(training), training.id))

    def next_event(self, timeout: float | None = None) -> Event | None:
        if self._stopped:
            failure = Failure(reason=Reason.UNNEEDED, message="a verdict fell without it")
            return Ended(training=self._stopped.pop(), record=Record(outcome=failure, curve=()))
        while self._due:
            self.clock, key = heapq.heappop(self._due)
            if key in self._running:
                training, rest = self._running[key]
                if rest:
                    self.told += 1
                    heapq.heappush(self._due, (self.clock + self.pace(training), key))
                    return EpochDone(training=training, epoch=rest.pop(0))
                del self._running[key]
                outcome = self.ended(training).outcomes[key]
                return Ended(training=training, record=Record(outcome=outcome, curve=()))
        return None

    def close(self) -> None:
        """Nothing is held."""

    def ended(self, training: Training) -> History:
        return trained(History(), [training], Learning(), self.epochs, self.luck)

    def curve(self, training: Training) -> tuple[Epoch, ...]:
        return self.ended(training).curves[training.id]

    def pace(self, training: Training) -> float:
        return random.Random(f"{self.luck}/{training.id}").uniform(0.5, 2.0)


def followed(workers: int, luck: str, early: EarlyDrop | None = EARLY) -> tuple[View, History, CurveEvaluator]:
    evaluator = CurveEvaluator(workers=workers, luck=luck)
    none = (lambda history: None, lambda history: None)
    view, history = run(searching(early=early), evaluator, Memory(), Silence(), History(), *none)
    return view, history, evaluator


def lessons(*pairs: tuple[float, float]) -> Lesson:
    return reduce(add, (pair(x, y) for x, y in pairs))


@pytest.mark.parametrize("luck", ["b", "d", "f"])
def test_decisions_are_the_same_for_any_number_of_workers(luck: str) -> None:
    one, *others = (followed(workers, luck)[0].decisions for workers in (1, 2, 8))
    assert all(other == one for other in others)


def test_trainings_of_what_is_dropped_early_end_early() -> None:
    with_curves, without = followed(2, "f"), followed(2, "f", early=None)
    dropped = [decision for decision in with_curves[0].decisions if decision.epoch]
    assert dropped
    assert all(
        one.verdict == "drop" and one.reason.startswith(f"dropped early at epoch {one.epoch} of 8") for one in dropped
    )
    assert with_curves[2].told < without[2].told


def test_every_prefix_of_a_history_proposes_the_recorded_next_step() -> None:
    view, history, _ = followed(2, "f")
    for number, decision in enumerate(view.decisions):
        again = searching().view(replace(history, decisions=view.decisions[:number]))
        assert again.decisions[number] == decision


def test_nothing_is_dropped_by_its_curve_before_enough_candidates_were_trained_to_the_end() -> None:
    hopeless = [-50.0, -50.0]
    few = lessons(*[(-5.0, -5.0)] * (ENOUGH - 1))
    assert EARLY.verdict(2, hopeless, few, 0.0, "points") is None
    assert EARLY.verdict(2, hopeless, few + pair(-5.0, -5.0), 0.0, "points") is not None


def test_a_late_start_is_no_reason_where_late_starters_have_caught_up() -> None:
    caught_up = lessons((-3.0, 0.6), (-2.5, 0.9), (-3.5, 0.2), (-2.0, 1.4), (-4.0, 0.3), (-3.0, 0.5))
    stayed_behind = lessons((-3.0, -3.1), (-2.5, -2.2), (-3.5, -3.6), (-2.0, -2.1), (-4.0, -3.9), (-3.0, -2.8))
    assert EARLY.verdict(2, [-3.0, -3.2], caught_up, 0.0, "points") is None
    assert EARLY.verdict(2, [-3.0, -3.2], stayed_behind, 0.0, "points") is not None


DIFFERENCES = st.floats(-10, 10)


@given(
    st.lists(st.tuples(DIFFERENCES, DIFFERENCES), min_size=ENOUGH, max_size=12),
    st.lists(DIFFERENCES, min_size=1, max_size=4),
)
@settings(max_examples=60, deadline=None)
def test_interval_and_verdict_never_disagree(pairs: list[tuple[float, float]], gains: list[float]) -> None:
    verdict = EARLY.verdict(2, gains, lessons(*pairs), 0.0, "points")
    _, high = foretell(sum(gains) / len(gains), lessons(*pairs)).interval(1 - 2 * EARLY.risk)
    assert (verdict is not None) == (high < 0)


@given(st.permutations([(-3.0, 0.6), (-2.5, -0.9), (1.0, 0.2), (2.0, 1.4)]))
@settings(max_examples=10, deadline=None)
def test_the_order_of_what_was_learned_does_not_matter(pairs: list[tuple[float, float]]) -> None:
    found = foretell(-1.0, lessons(*pairs))
    expected = foretell(-1.0, lessons(*sorted(pairs)))
    assert (found.gain, found.error) == pytest.approx((expected.gain, expected.error))


def test_many_lessons_outweigh_the_prior() -> None:
    draw = random.Random(0)
    points = [(x := draw.gauss(-2, 1), 0.5 * x + 1 + draw.gauss(0, 0.2)) for _ in range(400)]
    found = foretell(-2.0, lessons(*points))
    assert found.gain == pytest.approx(0.0, abs=0.05)
    assert found.error == pytest.approx(0.2, abs=0.05)


def test_what_would_have_been_kept_is_seldom_dropped() -> None:
    found = count(searching("point"), Learning(), runs=30)
    assert found.early > 20
    assert found.wrongly <= 0.05 * found.keepable


@pytest.mark.slow
@pytest.mark.parametrize("risk", [0.05, 0.2])
def test_the_stated_risk_holds_for_all_ways_of_learning(risk: float) -> None:
    _, values = risks(risk, ("likely", "point"), seeds=3, runs=200, seed=1)
    assert values["wrongly"] <= risk
