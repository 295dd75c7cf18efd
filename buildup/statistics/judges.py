"""The judges: whether a candidate's gain over its parent is kept, and after how many seeds that is said.

A gain counts from `min_gain` on, which is 0 unless the space says otherwise. Below, "a gain" is one of more than that.

A judge looks after 3, 6 and 12 seeds (1, 2 and 4 times what was asked for), and wants more only where more may change
its mind. `paired.py` says what pairs are worth; `docs/judging.md` shows how often the judges are wrong.

`proven` shares an error of 5 % out: over the stages of the search as the rule says (`share`), which needs no
independence, so verdicts that share a parent do no harm; and over the looks by `LOOK_SHARES`, most of it to the last
look, where most gains are found.

A bootstrap over seeds is no substitute: over three to five seeds it keeps something in 23 to 33 % of searches in
which nothing helps. Neither is the t-test without a prior: with two seeds its interval is 12.7 deviations wide.
"""

from collections.abc import Sequence
from dataclasses import Field, dataclass
from statistics import fmean
from typing import Any, ClassVar, Protocol

from buildup.registry import Registry
from buildup.statistics.paired_difference import GainEstimate, Pair, PooledVariance, estimate_gain
from buildup.trials.decision import Verdict
from buildup.trials.objective import ACCURACY, Objective

LOOKS = (1, 2, 4)
"""When to look, in multiples of the seeds that were asked for."""
LIKELY = 0.8
"""`likely` keeps from this probability of a gain on."""
ERROR = 0.05
"""`proven` keeps anything without a true gain in at most this share of searches."""
LOOK_SHARES = (0.03, 0.2, 0.85)
"""How the error is shared out over the looks: little to the first, where deviations are known least. Their sum may pass
1, because looks share seeds and what gives too little hope is not looked at again: of an error of 0.05 divided by 1, 4,
8, 16, 32 and 70 they use 0.75, 0.88, 0.92, 0.95, 0.97 and 0.99 (normal differences, 4 million weighted draws each)."""
LIKELY_HOPE = (0.5, 0.6)
"""`likely` looks again only where a gain is more probable than this, at its first and its second look."""
PROVEN_HOPE = (0.5, 0.79)
"""The same for `proven`. It costs 2 of 100 gains of half a point that would be kept (normal differences, a deviation of
0.62 points a seed, 3 seeds at the first look, a quarter of the error)."""


class Judge(Protocol):
    """Whether a candidate is kept. A frozen dataclass, for each search sets the gain and the objective of its own."""

    __dataclass_fields__: ClassVar[dict[str, Field[Any]]]

    @property
    def name(self) -> str:
        """The word that users choose it by."""
        ...

    @property
    def least_seeds(self) -> int:
        """How many seeds it needs before its first look."""
        ...

    @property
    def looks(self) -> tuple[int, ...]:
        """When it looks, in multiples of the seeds that were asked for."""
        ...

    @property
    def objective(self) -> Objective:
        """What a candidate must be better at."""
        ...

    @property
    def min_gain(self) -> float:
        """What a gain must be more than."""
        ...

    def judge(self, pairs: Sequence[Pair], interim: int, share: float, spread: PooledVariance) -> Verdict | None:
        """The verdict on pairs of equal seeds; None where it wants to look again, which it never does at the last look.

        Args:
            pairs: Candidate and parent, seed by seed.
            look: Which look this is, from 1 on.
            share: The part of the search's error that this candidate may use.
            spread: What earlier verdicts of the run have shown of the seeds.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class PointJudge:
    """The habit of the paper: the larger mean wins. It says nothing about chance, and looks once."""

    name: str = "point"
    least_seeds: int = 1
    looks: tuple[int, ...] = (1,)
    min_gain: float = 0.0
    objective: Objective = ACCURACY

    def judge(self, pairs: Sequence[Pair], interim: int, share: float, spread: PooledVariance) -> Verdict | None:
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
class LikelyJudge:
    """Keep when a gain is likely. Each step is unproven; `final` makes the claim once, for the winner."""

    name: str = "likely"
    least_seeds: int = 2
    looks: tuple[int, ...] = LOOKS
    min_gain: float = 0.0
    objective: Objective = ACCURACY

    def judge(self, pairs: Sequence[Pair], interim: int, share: float, spread: PooledVariance) -> Verdict | None:
        """Keep when P(gain) is at least `LIKELY`, which is when the interval at 2 * LIKELY - 1 is all gain."""
        level = round(2 * LIKELY - 1, 9)
        return _by_interval(
            self, estimate_gain(pairs, spread, self.objective), level, LIKELY_HOPE, interim, " (unproven)"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ProvenJudge:
    """Keep only what passes an interval that is corrected for all verdicts and all looks of the whole search."""

    name: str = "proven"
    least_seeds: int = 2
    looks: tuple[int, ...] = LOOKS
    min_gain: float = 0.0
    objective: Objective = ACCURACY

    def judge(self, pairs: Sequence[Pair], interim: int, share: float, spread: PooledVariance) -> Verdict | None:
        """Keep when the corrected interval is all gain."""
        level = 1 - 2 * ERROR * share * LOOK_SHARES[interim - 1]
        return _by_interval(self, estimate_gain(pairs, spread, self.objective), level, PROVEN_HOPE, interim, "")


JUDGES = Registry[Judge]("judge", group="buildup.judges")
"""Judges for whom any gain of accuracy will do."""
JUDGES.register(LikelyJudge())
JUDGES.register(ProvenJudge())
JUDGES.register(PointJudge())


def _by_interval(
    judge: LikelyJudge | ProvenJudge,
    found: GainEstimate,
    level: float,
    hopes: tuple[float, ...],
    interim: int,
    label: str,
) -> Verdict | None:
    min_gain, points = judge.min_gain, f"{found.gain:+.2f} {judge.objective.said}"
    low, high = found.interval(level)
    ci = f"{100 * level:.4g} % CI {low:+.2f} to {high:+.2f}, {found.seeds} seeds"
    asked = f" of more than {min_gain:g}" if min_gain else ""
    if low > min_gain:
        compared = f", more than the {min_gain:g} asked for" if min_gain else ""
        reason = f"kept{label}: {points} over its parent{compared} ({ci})"
    elif high < min_gain:
        compared = f"are less than the {min_gain:g} asked for" if min_gain else "against its parent"
        reason = f"dropped: {points} {compared} ({ci})"
    elif interim > len(hopes):
        how = f"are not enough to tell a gain{asked} from chance"
        reason = f"dropped as undecided: {points} {how} ({ci})"
    elif found.probability_above(min_gain) > hopes[interim - 1]:
        return None
    else:
        reason = f"dropped: {points} give too little hope of a gain{asked} for more seeds ({ci})"
    return Verdict(
        verdict="keep" if low > min_gain else "drop", gain=found.gain, ci=(low, high), level=level, reason=reason
    )
