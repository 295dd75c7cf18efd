"""How well cheap scores rank: wherever candidates of a run have both a cheap score and a full one.

Any training with a curve has cheap scores: those after a quarter, a half and three quarters of its epochs. They share
the luck of their own training with the full score, so they agree better than those of another training would.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from math import ceil
from statistics import fmean

from buildup.rules.rank import kendall
from buildup.trials.history import History
from buildup.trials.objective import Objective
from buildup.trials.outcome import Score
from buildup.trials.ranking import Ranking
from buildup.trials.training import training_id

SHARES = (0.25, 0.5, 0.75)
"""Of the epochs, after which scores are ranked."""
LEAST = 3
"""Fewer candidates have no order to speak of."""

Means = Mapping[str, float]
"""Of a candidate over its seeds, by its id; more is better."""


def early_rankings(
    history: History, candidates: Iterable[str], seeds: Sequence[int], epochs: int, objective: Objective
) -> tuple[Ranking, ...]:
    """How well the scores of early epochs rank the candidates with these seeds."""
    ids = list(dict.fromkeys(candidates))
    full = full_means(history, ids, seeds, objective)
    points = sorted({ceil(share * epochs) for share in SHARES} - {epochs})
    found = [
        ranking(f"epoch {point} of {epochs}", point / epochs, _early_means(history, ids, seeds, point, objective), full)
        for point in points
    ]
    return tuple(one for one in found if one)


def ranking(cheap: str, share: float, cheap_means: Means, full: Means) -> Ranking | None:
    """How well cheap scores rank those candidates that have a full score, too; None where these are too few."""
    both = [key for key in full if key in cheap_means]
    if len(both) < LEAST:
        return None
    found = kendall([cheap_means[key] for key in both], [full[key] for key in both])
    return Ranking(
        cheap=cheap,
        share=share,
        candidates=len(both),
        tau=found.tau,
        low=found.low,
        high=found.high,
        best=max(both, key=cheap_means.__getitem__) == max(both, key=full.__getitem__),
    )


def full_means(history: History, candidates: Iterable[str], seeds: Sequence[int], objective: Objective) -> Means:
    """The full scores of those candidates that were trained to the end with all of these seeds."""

    def value(key: str) -> float | None:
        outcome = history.outcomes.get(key)
        return objective.sign * objective.value(outcome) if isinstance(outcome, Score) else None

    return _means(candidates, seeds, value)


def _early_means(
    history: History, candidates: Iterable[str], seeds: Sequence[int], point: int, objective: Objective
) -> Means:
    def value(key: str) -> float | None:
        curve = history.curves.get(key, ())
        reached = objective.at(curve[point - 1]) if len(curve) >= point else None
        return None if reached is None else objective.sign * reached

    return _means(candidates, seeds, value)


def _means(candidates: Iterable[str], seeds: Sequence[int], value: Callable[[str], float | None]) -> Means:
    """Of what a function says of each training; candidates without one of these seeds are left out."""
    found = {}
    for candidate in candidates:
        values = [value(training_id(candidate, seed)) for seed in seeds]
        known = [one for one in values if one is not None]
        if known and len(known) == len(values):
            found[candidate] = fmean(known)
    return found
