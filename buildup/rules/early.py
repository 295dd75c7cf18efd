"""Ending a candidate's trainings early, where its parent's own curve leaves it next to no chance.

At a quarter, a half and three quarters of the epochs the mean difference x between candidate and parent is taken, with
the same seeds at the same epoch, and what it would be at the end, y, is foretold by a line

    y = offset + slope * x + error

that is learned from the candidates of this run which were trained to the end, on top of a stated prior: an offset of
0 +- 2 points, a slope of 1 +- 0.5, an error of 1 point, worth 4 candidates. A candidate is dropped when the chance that
y is a gain is below the risk. `curves.py` counts how often that drops what would have been kept.

A raw early score drops nothing: blocks of another kind may learn later, or sooner, than what they replace. How much
so is what the line learns, and nothing is dropped before it has seen `ENOUGH` candidates; while those are few, the
prior is wide enough for blocks that start late. What it says depends on the curves alone, not on when they came in, so
decisions are the same for any number of workers.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import ceil, sqrt
from statistics import fmean

import numpy as np
from scipy.special import stdtr, stdtrit

from buildup.trials.candidate import Candidate
from buildup.trials.decision import Verdict
from buildup.trials.history import History
from buildup.trials.objective import Objective
from buildup.trials.outcome import Score
from buildup.trials.training import training_id

SHARES = (0.25, 0.5, 0.75)
"""Of the epochs, after which is looked."""
ENOUGH = 2
"""Candidates that must have been trained to the end before. After one, up to 23 % of what would have been kept was
dropped at a risk of 0.2 (layouts at random); after five, a search by the build-up rule is over."""
PRIOR_LINE = (0.0, 1.0)
PRIOR_WEIGHTS = (1 / 4, 4.0)
"""Of offset and slope, in errors: 2 points and 0.5."""
PRIOR_ERROR = 1.0
"""In points."""
PRIOR_FREEDOM = 4.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Lesson:
    """Sums over pairs of a difference at an epoch and the difference at the end."""

    count: int = 0
    x: float = 0.0
    y: float = 0.0
    xx: float = 0.0
    xy: float = 0.0
    yy: float = 0.0

    def __add__(self, other: "Lesson") -> "Lesson":
        return Lesson(
            count=self.count + other.count,
            x=self.x + other.x,
            y=self.y + other.y,
            xx=self.xx + other.xx,
            xy=self.xy + other.xy,
            yy=self.yy + other.yy,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Forecast:
    """What the difference at the end is going to be."""

    gain: float
    error: float
    freedom: float

    def above(self, least: float) -> float:
        """How likely it is above this."""
        return float(stdtr(self.freedom, (self.gain - least) / self.error))

    def interval(self, level: float) -> tuple[float, float]:
        """The interval that holds it with this probability."""
        half = float(stdtrit(self.freedom, (1 + level) / 2)) * self.error
        return self.gain - half, self.gain + half


Lessons = tuple[Lesson, ...]
"""One for each epoch at which is looked; none before the first candidate."""


def pair(x: float, y: float) -> Lesson:
    """What one candidate teaches: the differences to its parent at an epoch and at the end."""
    return Lesson(count=1, x=x, y=y, xx=x * x, xy=x * y, yy=y * y)


def differences(
    history: History, candidate: Candidate, seeds: Iterable[int], point: int, objective: Objective
) -> list[float]:
    """What a candidate and its trained parent differ by after an epoch, seed by seed; nothing unless all are known."""
    assert candidate.parent is not None
    found = []
    for seed in seeds:
        if not isinstance(history.outcome(candidate.parent.id, seed), Score):
            return []
        ours, theirs = (history.curves.get(training_id(one.id, seed), ()) for one in (candidate, candidate.parent))
        if min(len(ours), len(theirs)) < point:
            return []
        reached, to_beat = objective.at(ours[point - 1]), objective.at(theirs[point - 1])
        if reached is None or to_beat is None:
            return []
        found.append(objective.sign * (reached - to_beat))
    return found


def taught(
    history: History,
    candidate: Candidate,
    seeds: Sequence[int],
    points: Sequence[int],
    objective: Objective,
    before: Lessons,
) -> Lessons:
    """What is known after a candidate that was trained to the end."""
    assert candidate.parent is not None
    gains = []
    for seed in seeds:
        ours, theirs = (history.outcome(one.id, seed) for one in (candidate, candidate.parent))
        if isinstance(ours, Score) and isinstance(theirs, Score):
            gains.append(objective.gain(ours, theirs))
    rows = [differences(history, candidate, seeds, point, objective) for point in points]
    if len(gains) < len(seeds) or not all(rows):
        return before
    new = tuple(pair(fmean(row), fmean(gains)) for row in rows)
    return tuple(old + one for old, one in zip(before, new, strict=True)) if before else new


def foretell(x: float, lesson: Lesson) -> Forecast:
    """What a difference becomes by the end: the conjugate line with normal errors.

    >>> round(foretell(-3.0, Lesson()).gain, 9)
    -3.0
    """
    line, weights = np.array(PRIOR_LINE), np.diag(PRIOR_WEIGHTS)
    precision = weights + np.array([[lesson.count, lesson.x], [lesson.x, lesson.xx]])
    learned = np.linalg.solve(precision, weights @ line + np.array([lesson.y, lesson.xy]))
    freedom = PRIOR_FREEDOM + lesson.count
    squares = PRIOR_FREEDOM * PRIOR_ERROR**2 + lesson.yy + line @ weights @ line - learned @ precision @ learned
    place = np.array([1.0, x])
    spread = 1 + place @ np.linalg.solve(precision, place)
    return Forecast(gain=float(learned @ place), error=sqrt(max(squares, 0.0) / freedom * spread), freedom=freedom)


@dataclass(frozen=True, slots=True, kw_only=True)
class EarlyDrop:
    """When to look at curves, and what may be risked."""

    risk: float
    """The chance that a candidate which is dropped early would have ended above its parent."""
    epochs: int
    """Of a training."""

    @property
    def points(self) -> tuple[int, ...]:
        """The epochs after which is looked.

        >>> EarlyDrop(risk=0.05, epochs=14).points, EarlyDrop(risk=0.05, epochs=2).points
        ((4, 7, 11), (1,))
        """
        return tuple(sorted({ceil(share * self.epochs) for share in SHARES} - {self.epochs}))

    def verdict(self, point: int, gains: Sequence[float], lesson: Lesson, least: float, unit: str) -> Verdict | None:
        """The verdict at one of these epochs; None where the candidate goes on.

        Args:
            point: The epoch.
            gains: What candidate and parent differ by after it, seed by seed.
            lesson: What earlier candidates taught of this epoch.
            least: What a gain must be more than.
            unit: Of gains.
        """
        if lesson.count < ENOUGH:
            return None
        x = fmean(gains)
        forecast = foretell(x, lesson)
        if forecast.above(least) >= self.risk:
            return None
        level = 1 - 2 * self.risk
        low, high = forecast.interval(level)
        reason = (
            f"dropped early at epoch {point} of {self.epochs}: {x:+.2f} {unit} against its parent there, which by the "
            f"curves of {lesson.count} candidates before leaves a chance of {100 * forecast.above(least):.2g} % to end "
            f"above it ({100 * level:.4g} % interval at the end {low:+.2f} to {high:+.2f}, {len(gains)} seeds)"
        )
        return Verdict(verdict="drop", gain=forecast.gain, ci=(low, high), level=level, reason=reason)
