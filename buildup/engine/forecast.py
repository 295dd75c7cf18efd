"""Estimate how long a search will still take, by simulating the rest of it a few times.

Each simulation draws verdicts with the odds of `engine/speculation.py` and training times from those measured so far,
and runs the loop on simulated workers. So the estimate includes trainings ahead of verdicts, further seeds,
and the candidates that follow from each verdict. If the search is too long to simulate, or its next candidates depend
on the scores, the trainings left are counted and divided by the workers instead.
"""

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import sqrt
from statistics import fmean, median, pstdev, quantiles
from typing import Literal

from buildup.engine.loop import run_loop
from buildup.engine.replay import Replay, View
from buildup.engine.speculation import RECENT, Experience
from buildup.execution.simulated import InMemoryWriter, ScoreRow, SimulatedEvaluator
from buildup.report.words import duration
from buildup.statistics.paired_difference import Comparison
from buildup.strategies.network_size import Limits
from buildup.trials.decision import Verdict
from buildup.trials.history import History
from buildup.trials.objective import ACCURACY, Objective
from buildup.trials.training import Candidate, Training

SIMULATIONS = 12
"""Simulations of a running search, for each update."""
PLAN_SIMULATIONS = 60
"""Simulations for a plan."""
NORMAL_DECILE = 1.28
"""Standard errors from the mean to the first and last decile of a normal distribution."""
INSTANT = 1e-6
"""Simulated seconds of a training that has ended already."""
MOST_SIMULATED = 100
"""The most trainings left for which a search is simulated. A simulation takes about a millisecond per training."""

Seconds = Callable[[Training], float]
"""The seconds that a training still takes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Forecast:
    """The expected rest of a search."""

    seconds: float
    """The median of the simulations. A few very long ones would raise the mean above most of them."""
    low: float
    high: float
    """The first and the last decile."""
    trainings: float
    """The median number of trainings that verdicts need, and those of the checks."""


def forecast(replay: Replay, view: View, history: History, *, workers: int, epochs: int) -> Forecast | None:
    """Estimate the rest of a running search.

    Returns:
        The estimate; None before the first epoch has ended, or if no training is left.
    """
    times = _times(history, epochs)
    if not times or view.ended:
        return None

    def draw_seconds(rng: random.Random) -> Seconds:
        pool = rng.choices(list(times.values()), k=len(times))  # bootstrap: the mean of few times is uncertain

        def seconds(training: Training) -> float:
            seen = len(history.curves.get(training.id, ()))
            left = 0 if training.id in history.outcomes else training.candidate.epochs(epochs) - seen
            return max(INSTANT, left * times.get(training.id, rng.choice(pool)))

        return seconds

    if _can_simulate(replay, view):
        return _simulate(replay, view, history, workers, draw_seconds, count=SIMULATIONS)
    waiting = (*view.needed, *view.checks)
    done = sum(len(history.curves.get(training.id, ())) / epochs for training in waiting)
    error = NORMAL_DECILE * pstdev(times.values()) / fmean(times.values()) / sqrt(len(times))
    return _count(replay, view, workers, fmean(times.values()) * epochs, done=done, error=error)


def forecast_plan(replay: Replay, seconds: Seconds, *, workers: int) -> Forecast:
    view = replay.view(History())
    if _can_simulate(replay, view):
        return _simulate(replay, view, History(), workers, lambda rng: seconds, count=PLAN_SIMULATIONS)
    return _count(replay, view, workers, seconds(view.needed[0]))


def left(replay: Replay, view: View, found: Forecast | None) -> str:
    """What is left of a search: the range of the number of trainings, and the forecast once there is one."""
    least, most = sorted(view.verdicts_left(kept) for kept in (False, True))
    fewest, largest = (n + len(view.checks) for n in (least * replay.seeds, most * replay.most_seeds))
    span = f"{fewest} to {largest}" if fewest < largest else f"{largest}"
    span = f"{span} trainings left" if largest != 1 else "1 training left"
    return f"{span}, {expected(found)}" if found else span


def expected(found: Forecast) -> str:
    """A forecast in words.

    >>> expected(Forecast(seconds=700.0, low=500.0, high=1000.0, trainings=6.4))
    '6 expected: about 11 min 40 s (8 min 20 s to 16 min 40 s)'
    """
    about, low, high = map(duration, (found.seconds, found.low, found.high))
    span = f" ({low} to {high})" if low != high else ""
    return f"{round(found.trainings)} expected: about {about}{span}"


def _can_simulate(replay: Replay, view: View) -> bool:
    return _is_predictable(view) and view.verdicts_left(True) * replay.seeds <= MOST_SIMULATED


def _is_predictable(view: View) -> bool:
    """Whether the next candidate follows from the verdict alone, not from the scores."""
    return view.step is None or view.step.remaining(True) == 1 or view.step.successor(True) is not None


def _times(history: History, usual: int) -> dict[str, float]:
    """Seconds per epoch, by training.

    Running trainings count too, because trainings that end first are short ones. The first epoch of a running training
    is left out where possible, because it includes loading libraries and compiling kernels.
    """
    times = {
        key: fmean(epoch.metrics["seconds"] for epoch in curve[1:] or curve)
        for key, curve in history.curves.items()
        if curve and all("seconds" in epoch.metrics for epoch in curve)
    }
    return times | history.epoch_seconds(usual)


def _count(replay: Replay, view: View, workers: int, each: float, *, done: float = 0.0, error: float = 0.0) -> Forecast:
    """An estimate from the mean of the fewest and the most trainings left."""
    verdicts = fmean(view.verdicts_left(kept) for kept in (False, True))
    multiples = [decision.seeds for decision in view.decisions if decision.seeds]
    looks = fmean(multiples) / min(multiples) if multiples else 1.0
    left = sum(training.candidate.epochs(1000) / 1000 for training in (*view.needed, *view.checks))
    trainings = left + replay.seeds * looks * max(0.0, verdicts - (view.current is not replay.base))
    side_by_side = workers if _is_predictable(view) else min(workers, replay.seeds)
    seconds = (trainings - done) * each / side_by_side
    return Forecast(seconds=seconds, low=seconds * (1 - error), high=seconds * (1 + error), trainings=trainings)


def _simulate(
    replay: Replay,
    view: View,
    history: History,
    workers: int,
    draw_seconds: Callable[[random.Random], Seconds],
    *,
    count: int,
) -> Forecast:
    spans, counts = [], []
    experience = Experience(decisions=view.decisions[-RECENT:], objective=replay.judge.objective)
    for seed in range(count):
        rng = random.Random(seed)
        seconds, verdicts = draw_seconds(rng), dict[str, int]()
        simulated = replace(
            replay,
            judge=_SimulatedJudge(most_times=replay.judge.most_times, verdicts=verdicts),
            costs=replay.costs if replay.limits != Limits() else None,
            foresees=False,  # its verdicts do not depend on scores
        )

        def row(
            training: Training,
            rng: random.Random = rng,
            seconds: Seconds = seconds,
            verdicts: dict[str, int] = verdicts,
        ) -> ScoreRow:
            candidate = training.candidate
            if candidate.id not in verdicts and not candidate.check:
                # The earlier looks at the current candidate have not led to a verdict.
                first = view.seeds if view.current and candidate.id == view.current.id else replay.seeds
                verdicts[candidate.id] = _draw_verdict(replay, history, experience, candidate, rng, first)
            return ScoreRow(score=_standing(candidate, verdicts), seconds=seconds(training))

        evaluator = SimulatedEvaluator(table=row, workers=workers)
        start = History(decisions=view.decisions)
        end, _ = run_loop(simulated, evaluator, InMemoryWriter(), start)
        spans.append(evaluator.clock)
        counts.append(len(simulated.required_ids(end) - history.outcomes.keys()) + len(view.checks))
    deciles = quantiles(spans, n=10)
    return Forecast(seconds=median(spans), low=deciles[0], high=deciles[-1], trainings=median(counts))


def _draw_verdict(
    replay: Replay,
    history: History,
    experience: Experience,
    candidate: Candidate,
    rng: random.Random,
    first: int,
) -> int:
    """A random verdict as a number: n for kept after n seeds, -n for dropped after them."""
    for seeds in range(first, replay.most_seeds + 1):
        pairs = replay.pairs(history, candidate, seeds) if candidate.parent else []
        odds = experience.odds(candidate, seeds, pairs, last=seeds == replay.most_seeds)
        chance = rng.random()
        if chance >= odds.more:
            return seeds if chance < odds.more + odds.keep else -seeds
    raise AssertionError("a judge decides at its last look")


def _standing(candidate: Candidate, verdicts: Mapping[str, int]) -> float:
    """A score that agrees with the verdicts that were drawn, so that workers train ahead as they do by real scores."""
    if candidate.parent is None:
        return 0.0
    return _standing(candidate.parent, verdicts) + (1.0 if verdicts.get(candidate.id, 1) > 0 else -1.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class _SimulatedJudge:
    """Returns the verdict that `_draw_verdict` drew for a candidate."""

    name: str = "simulated"
    least_seeds: int = 1
    most_times: int
    verdicts: Mapping[str, int]
    objective: Objective = ACCURACY
    min_gain: float = 0.0

    def judge(
        self, current: Comparison, earlier: Sequence[Comparison], *, first: int, last: int, share: float
    ) -> Verdict | None:
        drawn = self.verdicts[current.candidate]
        if current.seeds < min(abs(drawn), last):
            return None
        verdict: Literal["keep", "drop"] = "keep" if drawn > 0 else "drop"
        return Verdict(verdict=verdict, gain=0.0, ci=(0.0, 0.0), level=0.0, reason="simulated")
