"""The judges: whether a candidate's gain over its parent is kept, and how sure that is.

Both were trained with the same seeds on the same validation images, so the gain of one seed is a paired difference
d_i, in points. Its deviation has two parts. Two trainings of one network disagree on some images; with a share q of
n images disagreeing and a gain g, that alone makes a variance of (q - g^2) / n (McNemar), and q is measured. On top
comes what the seed does to the network as a whole. From three seeds alone a variance can't be estimated, so the
measured squares S = sum of (d_i - mean)^2 are pooled with that expectation, which counts like `PRIOR_SEEDS` further
seeds. Where the seeds differ more than expected, as they do for networks that have hardly learned, they are believed:

    v   = max((PRIOR_SEEDS * (image part + SEED_DEVIATION^2) + S) / (PRIOR_SEEDS + n - 1),  S / (n - 1))
    t   = mean / sqrt(v / n),   with PRIOR_SEEDS + n - 1 degrees of freedom

A bootstrap over seeds is no substitute: over three to five seeds it keeps something in 23 to 33 % of searches in
which nothing helps. Neither is the t-test without a prior: with two seeds its interval is 12.7 deviations wide.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import sqrt
from statistics import fmean

from scipy.special import stdtrit

from buildup.rules.base import Judge, More, Pair
from buildup.trials.decision import Verdict

SEED_DEVIATION = 0.25
"""Expected deviation of a paired difference from the seed itself, in points; true ones of 0 to 0.4 were seen."""
PRIOR_SEEDS = 4
"""How many seeds the expectation counts for."""
ASSUMED_DISAGREEMENT = 0.17
"""Share of images on which two trainings of one network disagree: measured for ResNet-50 on CIFAR-100; used only
where per-image correctness is not known, as in a table of scores."""
ASSUMED_IMAGES = 5_000

LIKELY = 0.8
"""`likely` keeps from this probability of a gain on."""
ERROR = 0.05
"""`proven` keeps anything without a true gain in at most this share of searches."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PointJudge:
    """The habit of the paper: the larger mean wins. It says nothing about chance."""

    name: str = "point"

    def judge(self, pairs: Sequence[Pair], looks: int) -> Verdict | More:
        """Keep what has the larger mean."""
        gain = fmean(_gains(pairs))
        keep = gain > 0
        count = f"{len(pairs)} seed{'s' if len(pairs) > 1 else ''}"
        side = "over" if keep else "against"
        how = f"{gain:+.2f} points {side} its parent ({count}, no interval: chance is not ruled out)"
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

    def judge(self, pairs: Sequence[Pair], looks: int) -> Verdict | More:
        """Keep when P(gain > 0) is at least `LIKELY`, which is when the interval at 2 * LIKELY - 1 is all gain."""
        return _by_interval(pairs, level=round(2 * LIKELY - 1, 9), label=" (unproven)")


@dataclass(frozen=True, slots=True, kw_only=True)
class ProvenJudge:
    """Keep only what passes an interval that is corrected for the number of verdicts of the whole search."""

    verdicts: int
    """The most verdicts that the search can come to; the error is shared out over them."""
    name: str = "proven"

    def judge(self, pairs: Sequence[Pair], looks: int) -> Verdict | More:
        """Keep when the corrected interval is all gain."""
        return _by_interval(pairs, level=1 - 2 * ERROR / self.verdicts, label="")


JUDGES: dict[str, Callable[[int], Judge]] = {
    "likely": lambda verdicts: LikelyJudge(),
    "proven": lambda verdicts: ProvenJudge(verdicts=max(2, verdicts)),
    "point": lambda verdicts: PointJudge(),
}
"""Judges by name; each is made for the most verdicts that the search can come to."""

NEEDS_SEEDS = {"likely": 2, "proven": 2, "point": 1}


def interval(pairs: Sequence[Pair], level: float) -> tuple[float, float, float]:
    """The mean gain and the two ends of its interval, in points."""
    gains = _gains(pairs)
    gain = fmean(gains)
    freedom = PRIOR_SEEDS + len(gains) - 1
    expected = fmean(_image_variance(pair) for pair in pairs) + SEED_DEVIATION**2
    squares = sum((d - gain) ** 2 for d in gains)
    variance = max((PRIOR_SEEDS * expected + squares) / freedom, squares / max(1, len(gains) - 1))
    half = float(stdtrit(freedom, (1 + level) / 2)) * sqrt(variance / len(gains))
    return gain, gain - half, gain + half


def _by_interval(pairs: Sequence[Pair], *, level: float, label: str) -> Verdict:
    gain, low, high = interval(pairs, level)
    keep = low > 0
    ci = f"{100 * level:.4g} % CI {low:+.2f} to {high:+.2f}, {len(pairs)} seeds"
    if keep:
        reason = f"kept{label}: {gain:+.2f} points over its parent ({ci})"
    elif high < 0:
        reason = f"dropped: {gain:+.2f} points against its parent ({ci})"
    else:
        reason = f"dropped: {gain:+.2f} points against its parent are not enough to tell a gain from chance ({ci})"
    return Verdict(verdict="keep" if keep else "drop", gain=gain, ci=(low, high), level=level, reason=reason)


def _gains(pairs: Sequence[Pair]) -> list[float]:
    assert pairs, "a judge needs a pair"
    return [pair.candidate.accuracy - pair.parent.accuracy for pair in pairs]


def _image_variance(pair: Pair) -> float:
    """Variance of one seed's difference from the images alone, in points squared."""
    ours, theirs = pair.candidate.correct, pair.parent.correct
    if ours is None or theirs is None or len(ours) != len(theirs):
        images, disagreement, gain = ASSUMED_IMAGES, ASSUMED_DISAGREEMENT, 0.0
    else:
        images = pair.candidate.images
        # One image more on each side than was seen: two perfect trainings still have a width.
        disagreement = (_differing_bits(ours, theirs) + 1) / (images + 1)
        gain = (pair.candidate.accuracy - pair.parent.accuracy) / 100
    return 1e4 * max(disagreement - gain**2, 1 / images**2) / images


def _differing_bits(one: bytes, other: bytes) -> int:
    return (int.from_bytes(one) ^ int.from_bytes(other)).bit_count()
