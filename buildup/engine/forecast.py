"""How long a search will still take: the search itself is simulated to its end a few times.

Each simulation draws the verdicts to come by the odds that `engine/speculation.py` learned from those so far, and the
lengths of trainings from those that have ended; the loop then runs on simulated workers. So the estimate includes what
idle workers train ahead, what the judge's later looks ask for, and where each verdict leads. Where that would take too
long, or what follows a verdict is not known, trainings are counted and divided by the workers instead.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import sqrt
from statistics import fmean, median, pstdev, quantiles

from buildup.engine.loop import NullObserver, run_loop
from buildup.engine.replay import Replay, View
from buildup.engine.speculation import RECENT, Experience
from buildup.execution.simulated import InMemoryWriter, ScoreRow, SimulatedEvaluator
from buildup.statistics.paired_difference import Pair, PooledVariance
from buildup.strategies.network_size import Limits
from buildup.trials.decision import Verdict
from buildup.trials.history import History
from buildup.trials.objective import ACCURACY, Objective
from buildup.trials.outcome import Score
from buildup.trials.training import Candidate, Training

PLAYS = 12
"""Of a search that runs, each time that it gets news."""
PLAYS_BEFORE = 60
"""Before it has begun, where there is time."""
TENTH = 1.28
"""Standard errors to either side of an estimate that one in ten passes."""
INSTANT = 1e-6
"""Seconds of a training that has ended before."""
MOST_PLAYED = 100
"""Trainings that may be left, at most, for a search to be played on: a play takes about a millisecond of each."""

Seconds = Callable[[Training], float]
"""How long a training takes from now on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Forecast:
    """What is left of a search, as it may come."""

    seconds: float
    """Half of the plays end sooner. Few searches are very long, and a mean would tell most of them too late an end."""
    low: float
    high: float
    """Eight of ten plays lie between them."""
    trainings: float
    """Half of the plays take fewer; those that no verdict will need are not counted."""


def forecast(replay: Replay, view: View, history: History, *, workers: int, epochs: int) -> Forecast | None:
    """What is left of a search; None before the first epoch, because nothing is known of times."""
    times = _times(history, epochs)
    if not times or view.finished:
        return None

    def taking(rng: random.Random) -> Seconds:
        pool = rng.choices(list(times.values()), k=len(times))  # few times say little of their mean

        def seconds(training: Training) -> float:
            left = 0.0 if training.id in history.outcomes else _left(history, training, epochs)
            return max(INSTANT, left * times.get(training.id, rng.choice(pool)))

        return seconds

    if _is_played(replay, view):
        return _played(replay, view, history, workers, taking, plays=PLAYS)
    begun = sum(1 - _left(history, training, epochs) / epochs for training in view.needed)
    unsure = TENTH * pstdev(times.values()) / fmean(times.values()) / sqrt(len(times))
    each = fmean(times.values()) * epochs
    return _counted(replay, view, workers, each, begun=begun, unsure=unsure)


def forecast_plan(replay: Replay, seconds: Seconds, *, workers: int) -> Forecast:
    """A whole search before it has begun, from what each training would take."""
    view = replay.view(History())
    if _is_played(replay, view):
        return _played(replay, view, History(), workers, lambda rng: seconds, plays=PLAYS_BEFORE)
    return _counted(replay, view, workers, seconds(view.needed[0]))


def _is_played(replay: Replay, view: View) -> bool:
    return _is_foreseen(view) and replay.verdicts_left(view.decisions, True) * replay.seeds <= MOST_PLAYED


def _is_foreseen(view: View) -> bool:
    return view.step is None or view.step.remaining(True) == 1 or view.step.successor(True) is not None


def _times(history: History, usual: int) -> dict[str, float]:
    """Seconds an epoch, by training. Those that run count, too: what ends first is what was short.

    Their first epoch may have waited for libraries and kernels, and says little of those to come.
    """
    times = {
        key: fmean(epoch.metrics["seconds"] for epoch in curve[1:] or curve)
        for key, curve in history.curves.items()
        if curve and all("seconds" in epoch.metrics for epoch in curve)
    }
    return times | {
        key: outcome.seconds / (len(history.curves.get(key, ())) or usual)
        for key, outcome in history.outcomes.items()
        if isinstance(outcome, Score)
    }


def _counted(
    replay: Replay, view: View, workers: int, each: float, *, begun: float = 0.0, unsure: float = 0.0
) -> Forecast:
    """By the number of trainings halfway between the fewest and the most, with the looks that verdicts took so far."""
    verdicts = fmean(replay.verdicts_left(view.decisions, kept) for kept in (False, True))
    multiples = [decision.seeds for decision in view.decisions if decision.seeds]
    looks = fmean(multiples) / min(multiples) if multiples else 1.0
    trainings = len(view.needed) + replay.seeds * looks * (verdicts - (view.current is not replay.base))
    side_by_side = workers if _is_foreseen(view) else min(workers, replay.seeds)
    seconds = (trainings - begun) * each / side_by_side
    return Forecast(seconds=seconds, low=seconds * (1 - unsure), high=seconds * (1 + unsure), trainings=trainings)


def _played(
    replay: Replay,
    view: View,
    history: History,
    workers: int,
    taking: Callable[[random.Random], Seconds],
    *,
    plays: int,
) -> Forecast:
    spans, counts = [], []
    experience = Experience(decisions=view.decisions[-RECENT:], objective=replay.judge.objective)
    fated = replace(
        replay,
        judge=_Fated(looks=replay.judge.looks),
        costs=replay.costs if replay.limits != Limits() else None,
    )
    for play in range(plays):
        rng = random.Random(play)
        seconds, fates = taking(rng), dict[str, float]()

        def row(
            training: Training,
            rng: random.Random = rng,
            seconds: Seconds = seconds,
            fates: dict[str, float] = fates,
        ) -> ScoreRow:
            candidate = training.candidate
            if candidate.id not in fates:
                # An earlier look of the verdict that is waited for has left it open.
                first = view.interim if view.current and candidate.id == view.current.id else 1
                fates[candidate.id] = _drawn(replay, history, experience, candidate, rng, first)
            return ScoreRow(score=fates[candidate.id], seconds=seconds(training))

        evaluator = SimulatedEvaluator(table=row, workers=workers)
        start = History(decisions=view.decisions)
        end, _ = run_loop(fated, evaluator, InMemoryWriter(), NullObserver(), start)
        spans.append(evaluator.clock)
        counts.append(len(fated.required_ids(end) - history.outcomes.keys()))
    tenths = quantiles(spans, n=10)
    return Forecast(seconds=median(spans), low=tenths[0], high=tenths[-1], trainings=median(counts))


def _drawn(
    replay: Replay,
    history: History,
    experience: Experience,
    candidate: Candidate,
    rng: random.Random,
    first: int,
) -> float:
    """How a candidate's verdict falls, at its first look to come or later: kept at the look of this number, or dropped
    at it where it is below zero."""
    looks = len(replay.judge.looks)
    for interim in range(first, looks + 1):
        pairs = replay.pairs(history, candidate, interim) if candidate.parent else []
        odds = experience.odds(candidate, interim, pairs, last=interim == looks)
        chance = rng.random()
        if chance >= odds.more:
            return interim if chance < odds.more + odds.keep else -interim
    raise AssertionError("a judge comes to a verdict at its last look")


def _left(history: History, training: Training, epochs: int) -> int:
    """The epochs that a training still has to go."""
    return epochs - len(history.curves.get(training.id, ()))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Fated:
    """Gives the verdict that was drawn for a candidate, which its score tells."""

    name: str = "fated"
    least_seeds: int = 1
    looks: tuple[int, ...]
    objective: Objective = ACCURACY
    min_gain: float = 0.0

    def judge(self, pairs: Sequence[Pair], interim: int, share: float, spread: PooledVariance) -> Verdict | None:
        """The verdict, once it is time for it."""
        fate = pairs[0].candidate.accuracy
        if interim < abs(fate) and interim < len(self.looks):
            return None
        kept = fate > 0
        return Verdict(verdict="keep" if kept else "drop", gain=fate, ci=(fate, fate), level=0.0, reason="as drawn")
