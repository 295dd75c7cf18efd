"""Judges: rules that keep or drop a candidate by its gain over its parent, after as many seeds as they need.

Only a gain above `min_gain` counts, which is 0 unless the space sets it. Below, "a gain" is one above that.

A judge looks at a candidate after each seed, from `--seeds` on, and asks for one more as long as that may change the
verdict, up to four times `--seeds`. `mixed_model.py` estimates the gain from all verdicts of the run; `docs/judging.md`
shows how often the judges are right.

`proven` divides an error of 4 % among the stages of the search (`share`). That needs no independence, so verdicts may
share a parent. `error_bounds` divides a share among the looks.

A bootstrap over seeds is no substitute: where nothing helps, its 95 % intervals keep something in 40, 27 and 22 % of
drawn searches of four verdicts with three, four and five seeds.
"""

from collections.abc import Sequence
from dataclasses import Field, dataclass
from functools import cache
from math import sqrt
from typing import Any, ClassVar, Protocol

import numpy as np

from buildup.errors import counted, percent
from buildup.registry import Registry
from buildup.statistics.distributions import normal_cdf
from buildup.statistics.mixed_model import posterior, unshrunken
from buildup.statistics.paired_difference import Comparison
from buildup.trials.decision import Verdict
from buildup.trials.objective import ACCURACY, Objective

MOST_TIMES = 4
"""The most seeds, in multiples of the requested number."""
LIKELY = 0.95
"""`likely` keeps candidates with at least this probability of a gain. The prior is never quite that of a run: with this
bound, about 90 % or more of the kept blocks truly help in all simulated worlds (`docs/judging.md`)."""
ERROR = 0.04
"""The error that `proven` divides. The variance of few seeds is itself uncertain, so searches err a little more often
than that: in about 5 % of simulated searches (`docs/judging.md`)."""
HOPE = 0.4
"""More seeds are wanted only if a gain is more probable than this at the first look. The bound rises with the seeds, up
to `LIKELY`, and for `proven` up to `PROVEN_HOPE`, at the last look."""
PROVEN_HOPE = 0.95
EDGE = 1e-9
"""Within this distance of the bound the interval decides, not the probability: the two are equal but for rounding."""
EXPONENT = 5
"""The error that is used up by a share t of the seeds grows as t^5."""
REACH = 7.0
"""Standard deviations that the grid of `error_bounds` covers."""
POINTS = 400
BISECTIONS = 50


class Judge(Protocol):
    """Keeps or drops candidates. A frozen dataclass, so that each search can set its own least gain and objective."""

    __dataclass_fields__: ClassVar[dict[str, Field[Any]]]

    @property
    def name(self) -> str:
        """The name that users give."""

    @property
    def least_seeds(self) -> int:
        """Minimum number of seeds at the first look."""

    @property
    def most_times(self) -> int:
        """Seeds at the last look, in multiples of those at the first."""

    @property
    def objective(self) -> Objective:
        """The objective of the search."""

    @property
    def min_gain(self) -> float:
        """The least gain: only larger gains count."""

    def judge(
        self, current: Comparison, earlier: Sequence[Comparison], *, first: int, last: int, share: float
    ) -> Verdict | None:
        """The verdict; None to ask for one more seed, which is not possible at the last look.

        Args:
            current: The comparison of candidate and parent over all seeds so far.
            earlier: The comparisons of the earlier verdicts of the run.
            first: The seeds that both have at the first look.
            last: The seeds that both have at the last look.
            share: The share of the error of the search that this verdict may use.
        """


@dataclass(frozen=True, slots=True, kw_only=True)
class PointJudge:
    """Keep the larger mean, as the paper does. Chance is not considered, and there is one look."""

    name: str = "point"
    least_seeds: int = 1
    most_times: int = 1
    min_gain: float = 0.0
    objective: Objective = ACCURACY

    def judge(
        self, current: Comparison, earlier: Sequence[Comparison], *, first: int, last: int, share: float
    ) -> Verdict | None:
        gain, keep = current.gain, current.gain > self.min_gain
        side = "over" if gain > 0 else "against"
        compared = f", {'more' if keep else 'not more'} than the {self.min_gain:g} asked for" if self.min_gain else ""
        points, seeds = f"{gain:+.2f} {self.objective.said}", counted(current.seeds, "seed")
        how = f"{points} {side} its parent{compared} ({seeds}, no interval: chance is not ruled out)"
        return Verdict(
            verdict="keep" if keep else "drop",
            gain=gain,
            ci=(gain, gain),
            level=0.0,
            reason=f"{'kept' if keep else 'dropped'}: {how}",
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class IntervalJudge:
    """Keep when the whole interval of the gain is above the least gain.

    The interval of `likely` is that of the posterior, at the fixed level 2 * LIKELY - 1, so a candidate is kept when
    the probability of a gain is at least `LIKELY`. The interval of `proven` has no prior for gains, and is corrected
    for all verdicts and looks of the search.
    """

    name: str
    label: str = ""
    """Stands behind "kept" in reasons."""
    corrected: bool
    """Whether the error of the whole search is bounded."""
    hope: float
    """The bound for more seeds at the last look."""
    least_seeds: int = 2
    most_times: int = MOST_TIMES
    min_gain: float = 0.0
    objective: Objective = ACCURACY

    def judge(
        self, current: Comparison, earlier: Sequence[Comparison], *, first: int, last: int, share: float
    ) -> Verdict | None:
        estimate, tail = posterior, round(1 - LIKELY, 9)
        if self.corrected:
            estimate, tail = unshrunken, error_bounds(first, last, round(ERROR * share, 9))[current.seeds - first]
        found = estimate(current, tuple(earlier), self.objective.seed_deviation)
        probability = found.probability_above(self.min_gain)
        hope = HOPE + (self.hope - HOPE) * (current.seeds - first) / max(1, last - first)
        if current.seeds < last and hope < probability < 1 - tail - EDGE:
            return None
        level = 1 - 2 * tail
        low, high = found.interval(level)
        gain = f"{found.mean:+.2f} {self.objective.said}"
        asked = f" of more than {self.min_gain:g}" if self.min_gain else ""
        if low > self.min_gain:
            compared = f", more than the {self.min_gain:g} asked for" if self.min_gain else ""
            reason = f"kept{self.label}: {gain} over its parent{compared}"
        elif high < self.min_gain:
            compared = f"are less than the {self.min_gain:g} asked for" if self.min_gain else "against its parent"
            reason = f"dropped: {gain} {compared}"
        elif current.seeds >= last:
            reason = f"dropped as undecided: {gain} are not enough to tell a gain{asked} from chance"
        else:
            reason = f"dropped: {gain} give too little hope of a gain{asked} for more seeds"
        kind = "CI" if self.corrected else "interval"
        return Verdict(
            verdict="keep" if low > self.min_gain else "drop",
            gain=found.mean,
            ci=(low, high),
            level=level,
            reason=f"{reason} ({percent(level)} {kind} {low:+.2f} to {high:+.2f}, {current.seeds} seeds)",
        )


@cache
def error_bounds(first: int, last: int, error: float) -> tuple[float, ...]:
    """The largest one-sided p-value that is significant, at each analysis from the first to the last number of seeds.

    If each analysis used the whole error, chance would have many tries. An alpha-spending function bounds the error
    that is used up by a share t of the seeds: alpha * t^5, so that most of it is left for the last analyses, where most
    gains are found. The bounds follow from the joint distribution of the analyses: sums of independent normal
    differences. They are computed on a grid, from one analysis to the next.

    Args:
        first: The seeds at the first analysis.
        last: The seeds at the last analysis.
        error: The probability that any analysis is significant if there is no gain.
    """
    bounds, spent = list[float](), 0.0
    sums, density = np.zeros(1), np.ones(1)
    before = 0
    for seeds in range(first, last + 1):
        allowed = error * (seeds / last) ** EXPONENT - spent
        step = sqrt(seeds - before)
        low, high = 0.0, REACH * sqrt(seeds)
        for _ in range(BISECTIONS):
            bound = (low + high) / 2
            low, high = (bound, high) if density @ normal_cdf((sums - bound) / step) > allowed else (low, bound)
        bounds.append(float(normal_cdf(-bound / sqrt(seeds))))
        grid = np.linspace(-REACH * sqrt(seeds), bound, POINTS)
        width = np.full(POINTS, grid[1] - grid[0])
        width[[0, -1]] /= 2
        density = width * (np.exp(-(((grid[:, None] - sums) / step) ** 2) / 2) / (step * sqrt(2 * np.pi)) @ density)
        sums, before, spent = grid, seeds, spent + allowed
    return tuple(bounds)


JUDGES = Registry[Judge]("judge", group="buildup.judges")
JUDGES.register(IntervalJudge(name="likely", label=" (unproven)", corrected=False, hope=LIKELY))
JUDGES.register(IntervalJudge(name="proven", corrected=True, hope=PROVEN_HOPE))
JUDGES.register(PointJudge())
