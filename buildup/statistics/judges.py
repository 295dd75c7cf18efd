"""Judges: rules that keep or drop a candidate by its gain over its parent, after as many seeds as they need.

Only a gain above `min_gain` counts, which is 0 unless the space sets it. Below, "a gain" is one above that.

A judge makes interim analyses after 3, 6 and 12 seeds (1, 2 and 4 times the requested number), and asks for more seeds
only where they may change the verdict. `paired_difference.py` estimates the gain; `docs/judging.md` shows how often the
judges err.

`proven` divides an error of 5 % among the stages of the search (`share`). That needs no independence, so verdicts may
share a parent. Each share is divided among the interim analyses by `INTERIM_SHARES`, most of it for the last one, where
most gains are found.

A bootstrap over seeds is no substitute: with three to five seeds it keeps something in 23 to 33 % of searches in which
nothing helps. Neither is the t-test without a prior: with two seeds its interval is 12.7 deviations wide.
"""

from collections.abc import Sequence
from dataclasses import Field, dataclass
from statistics import fmean
from typing import Any, ClassVar, Protocol

from buildup.registry import Registry
from buildup.statistics.paired_difference import Pair, PooledVariance, estimate_gain
from buildup.trials.decision import Verdict
from buildup.trials.objective import ACCURACY, Objective

INTERIM_ANALYSES = (1, 2, 4)
"""The numbers of seeds at the interim analyses, in multiples of the requested number."""
LIKELY = 0.8
"""`likely` keeps candidates with at least this probability of a gain."""
ERROR = 0.05
"""`proven` keeps anything without a true gain in at most this share of searches (family-wise error rate)."""
INTERIM_SHARES = (0.03, 0.2, 0.85)
"""The shares of the error at the interim analyses: little for the first, where variances are least known. Their sum may
exceed 1, because analyses share seeds, and hopeless candidates are not analysed again: of an error of 0.05 divided by
1, 4, 8, 16, 32 and 70 they use 0.75, 0.88, 0.92, 0.95, 0.97 and 0.99 (normal differences, 4 million weighted draws
each)."""
LIKELY_FUTILITY = (0.5, 0.6)
"""Futility bounds at the first and second analysis: `likely` asks for more seeds only if a gain is more probable."""
PROVEN_FUTILITY = (0.5, 0.79)
"""The same for `proven`. They lose 2 of 100 gains of half a point that would be kept (normal differences, a deviation
of 0.62 points a seed, 3 seeds at the first analysis, a quarter of the error)."""


class Judge(Protocol):
    """Keeps or drops candidates. A frozen dataclass, so that each search can set its own least gain and objective."""

    __dataclass_fields__: ClassVar[dict[str, Field[Any]]]

    @property
    def name(self) -> str:
        """The name that users give."""

    @property
    def least_seeds(self) -> int:
        """Minimum number of seeds at the first analysis."""

    @property
    def looks(self) -> tuple[int, ...]:
        """The numbers of seeds at its interim analyses, in multiples of the requested number."""

    @property
    def objective(self) -> Objective:
        """The objective of the search."""

    @property
    def min_gain(self) -> float:
        """The least gain: only larger gains count."""

    def judge(self, pairs: Sequence[Pair], interim: int, share: float, pooled: PooledVariance) -> Verdict | None:
        """The verdict; None to ask for more seeds, which is not possible at the last interim analysis.

        Args:
            pairs: Scores of candidate and parent, seed by seed.
            interim: The number of this interim analysis, counted from 1.
            share: The share of the error of the search that this verdict may use.
            pooled: The variance due to seeds, pooled over earlier verdicts of the run.
        """


@dataclass(frozen=True, slots=True, kw_only=True)
class PointJudge:
    """Keep the larger mean, as the paper does. Chance is not considered, and there is one analysis."""

    name: str = "point"
    least_seeds: int = 1
    looks: tuple[int, ...] = (1,)
    min_gain: float = 0.0
    objective: Objective = ACCURACY

    def judge(self, pairs: Sequence[Pair], interim: int, share: float, pooled: PooledVariance) -> Verdict | None:
        """Keep what has the larger mean."""
        gain = fmean(self.objective.gain(pair.candidate, pair.parent) for pair in pairs)
        keep = gain > self.min_gain
        count = f"{len(pairs)} seed{'s' if len(pairs) > 1 else ''}"
        side = "over" if gain > 0 else "against"
        compared = f", {'more' if keep else 'not more'} than the {self.min_gain:g} asked for" if self.min_gain else ""
        points = f"{gain:+.2f} {self.objective.said}"
        how = f"{points} {side} its parent{compared} ({count}, no interval: chance is not ruled out)"
        return Verdict(
            verdict="keep" if keep else "drop",
            gain=gain,
            ci=(gain, gain),
            level=0.0,
            reason=f"{'kept' if keep else 'dropped'}: {how}",
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class IntervalJudge:
    """Keep when the whole confidence interval of the gain is above the least gain.

    The interval of `likely` has the fixed level 2 * LIKELY - 1, so a candidate is kept when P(gain) is at least
    `LIKELY`. No single step is proven; `final` makes one claim, for the winner. The interval of `proven` is corrected
    for all verdicts and interim analyses of the search.
    """

    name: str
    label: str = ""
    """Stands behind "kept" in reasons."""
    shares: tuple[float, ...] | None
    """The shares of the error at the interim analyses; None for the fixed level."""
    futility: tuple[float, ...]
    """More seeds are wanted only if a gain is more probable than this, for each analysis but the last."""
    least_seeds: int = 2
    looks: tuple[int, ...] = INTERIM_ANALYSES
    min_gain: float = 0.0
    objective: Objective = ACCURACY

    def judge(self, pairs: Sequence[Pair], interim: int, share: float, pooled: PooledVariance) -> Verdict | None:
        """Compare the interval with the least gain."""
        found = estimate_gain(pairs, pooled, self.objective)
        level = round(2 * LIKELY - 1, 9) if self.shares is None else 1 - 2 * ERROR * share * self.shares[interim - 1]
        low, high = found.interval(level)
        gain = f"{found.gain:+.2f} {self.objective.said}"
        asked = f" of more than {self.min_gain:g}" if self.min_gain else ""
        if low > self.min_gain:
            compared = f", more than the {self.min_gain:g} asked for" if self.min_gain else ""
            reason = f"kept{self.label}: {gain} over its parent{compared}"
        elif high < self.min_gain:
            compared = f"are less than the {self.min_gain:g} asked for" if self.min_gain else "against its parent"
            reason = f"dropped: {gain} {compared}"
        elif interim > len(self.futility):
            reason = f"dropped as undecided: {gain} are not enough to tell a gain{asked} from chance"
        elif found.probability_above(self.min_gain) > self.futility[interim - 1]:
            return None
        else:
            reason = f"dropped: {gain} give too little hope of a gain{asked} for more seeds"
        return Verdict(
            verdict="keep" if low > self.min_gain else "drop",
            gain=found.gain,
            ci=(low, high),
            level=level,
            reason=f"{reason} ({100 * level:.4g} % CI {low:+.2f} to {high:+.2f}, {found.seeds} seeds)",
        )


JUDGES = Registry[Judge]("judge", group="buildup.judges")
JUDGES.register(IntervalJudge(name="likely", label=" (unproven)", shares=None, futility=LIKELY_FUTILITY))
JUDGES.register(IntervalJudge(name="proven", shares=INTERIM_SHARES, futility=PROVEN_FUTILITY))
JUDGES.register(PointJudge())
