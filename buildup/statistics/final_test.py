"""The claim that `final` makes once: is the winner of a search better than its base?

A winner was chosen by its scores, so those are biased in its favour, and intervals around them are not valid. The claim
uses none of them: base and winner are trained anew with fresh seeds, and are compared on test images that no verdict
used. It is corrected for the number of claims made at the same time, as when a control of equal size is compared, too.
From the search, only the variance due to seeds is used, and that of dropped steps alone: a step is
more likely to be kept if its seeds agree by chance.
"""

from collections.abc import Sequence
from math import inf, sqrt
from statistics import fmean, stdev

from buildup.errors import counted, percent
from buildup.statistics.distributions import t_quantile
from buildup.statistics.mixed_model import unshrunken
from buildup.statistics.paired_difference import Comparison, Pair, compare
from buildup.trials.final_result import Claim
from buildup.trials.objective import ACCURACY, Objective

ERROR = 0.05
"""Family-wise error rate of the claims of one `final`, half of it on either side of their intervals."""
LEAST_SEEDS = 3
"""Minimum number of seeds. With fewer, the interval is so wide that hardly any gain can be proven."""


def claim(
    pairs: Sequence[Pair],
    earlier: Sequence[Comparison],
    claims: int = 1,
    *,
    objective: Objective = ACCURACY,
    against: str = "base",
    failed: Sequence[str] = (),
) -> Claim:
    """The claim on pairs of fresh trainings, one of `claims` that are made at the same time.

    `earlier` are the comparisons of the dropped steps, if trainings of the search were of the same length and data.

    If a training failed, its seed has no pair, and nothing is claimed, because the remaining seeds may be a biased
    selection.
    """
    compared = compare(pairs, objective)
    found = unshrunken(compared, tuple(earlier), objective.seed_deviation)
    level = 1 - ERROR / claims
    low, high = found.interval(level)
    ci = f"{percent(level)} CI {low:+.2f} to {high:+.2f}, {counted(compared.seeds, 'fresh seed')}"
    shown = f"{compared.gain:+.2f} {objective.said} over the {against}"
    if failed:
        sentence = f"Nothing is claimed: {shown} ({ci}), but {' and '.join(failed)}."
    elif low > 0:
        sentence = f"Proven: a gain of {shown} ({ci})."
    elif high < 0:
        sentence = f"Proven: a loss of {shown} ({ci})."
    else:
        sentence = f"Not proven: {shown} are not enough to tell a gain from chance ({ci})."
    claimed = low > 0 and not failed
    return Claim(against=against, gain=compared.gain, ci=(low, high), level=level, claimed=claimed, sentence=sentence)


def no_claim(against: str, failed: Sequence[str]) -> Claim:
    """The claim if no seed has both scores."""
    return Claim(
        against=against,
        gain=0.0,
        ci=(0.0, 0.0),
        level=0.0,
        claimed=False,
        sentence=f"Nothing is claimed over the {against}: {' and '.join(failed)}.",
    )


def mean_interval(values: Sequence[float], largest: float = inf) -> tuple[float, float] | None:
    """The 95 % interval of a mean over seeds by Student's t, clipped to valid values; None for fewer than two seeds.

    >>> mean_interval([80.0, 82.0], 100.0), mean_interval([97.0, 99.0], 100.0)
    ((68.29, 93.71), (85.29, 100.0))
    """
    if len(values) < 2:
        return None
    half = t_quantile(len(values) - 1, 0.975) * stdev(values) / sqrt(len(values))
    return round(max(0.0, fmean(values) - half), 2), round(min(largest, fmean(values) + half), 2)
