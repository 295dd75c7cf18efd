"""Kendall's rank correlation tau, with exact p-values and confidence intervals for few observations.

Five verdicts give ten pairs, which are not independent, so no normal approximation is used. Over all orders, the number
of discordant pairs is distributed like the inversions of a permutation. Mallows' model, in which orders with fewer
inversions are likelier, extends this to any true tau between -1 and 1. The p-value is that of a true tau of zero. The
interval holds the true values that are not rejected, with half the error on each side, so it excludes zero exactly if p
is below one minus the level.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import accumulate, combinations
from math import comb, exp, log

STEPS = 60
"""Number of bisection steps for an end of the interval."""
STRONGEST = 60.0
"""Mallows parameter at which only perfect agreement has a probability."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreement:
    """The rank correlation of two rows."""

    tau: float
    """Share of concordant pairs minus that of discordant ones; ties count as neither."""
    low: float
    high: float
    p: float
    """Two-sided p-value: exact without ties."""
    count: int
    level: float


def kendall(
    first: Sequence[float], second: Sequence[float], level: float = 0.95, *, groups: Sequence[object] = ()
) -> Agreement:
    """Kendall's tau of two rows, with an interval and a two-sided p-value.

    Interval and p-value are valid however ties are broken.

    >>> agreement = kendall([1, 2, 3, 4], [0.1, 0.2, 0.5, 0.9])
    >>> agreement.tau, round(agreement.low, 2), agreement.high, round(agreement.p, 3)
    (1.0, -0.12, 1.0, 0.083)

    Args:
        first: One row of numbers.
        second: The other row, of the same observations.
        level: Confidence level of the interval.
        groups: The group of each observation, if only observations of one group can be compared.
    """
    groups = groups or (0,) * len(first)
    sizes = tuple(sorted(size for size in Counter(groups).values() if size > 1))
    assert len(first) == len(second) == len(groups), "both rows need the same observations"
    assert sizes, "a rank correlation needs two observations"
    signs = [
        ((one > other) - (one < other)) * ((this > that) - (this < that))
        for (one, this, mine), (other, that, theirs) in combinations(zip(first, second, groups, strict=True), 2)
        if mine == theirs
    ]
    discordant, tied = signs.count(-1), signs.count(0)
    low, high, p = _bounds(discordant, discordant + tied, sizes, (1 - level) / 2)
    return Agreement(tau=sum(signs) / len(signs), low=low, high=high, p=p, count=sum(sizes), level=level)


def at_most(discordant: int, sizes: tuple[int, ...], strength: float) -> float:
    """The probability of at most so many discordant pairs, in groups of these sizes that follow Mallows' model."""
    return sum(_probabilities(sizes, strength)[: discordant + 1])


def at_least(discordant: int, sizes: tuple[int, ...], strength: float) -> float:
    return sum(_probabilities(sizes, strength)[discordant:])


def tau_of(sizes: tuple[int, ...], strength: float) -> float:
    """The mean tau of groups that follow Mallows' model, which the interval estimates."""
    shares = _probabilities(sizes, strength)
    return 1 - 2 * sum(number * share for number, share in enumerate(shares)) / (len(shares) - 1)


@cache
def _bounds(fewest: int, most: int, sizes: tuple[int, ...], error: float) -> tuple[float, float, float]:
    """Both ends of the interval, and p, for a range of discordant pairs."""
    few, many = at_most(most, sizes, 0.0), at_least(fewest, sizes, 0.0)
    low = _solve(sizes, lambda strength: at_most(most, sizes, strength) - error)
    high = _solve(sizes, lambda strength: error - at_least(fewest, sizes, strength))
    pairs = sum(comb(size, 2) for size in sizes)
    return -1.0 if most == pairs else low, 1.0 if fewest == 0 else high, min(1.0, 2 * few, 2 * many)


def _solve(sizes: tuple[int, ...], rising: Callable[[float], float]) -> float:
    """The tau at which a rising function of the strength is zero."""
    low, high = -STRONGEST, STRONGEST
    for _ in range(STEPS):
        middle = (low + high) / 2
        low, high = (low, middle) if rising(middle) > 0 else (middle, high)
    return tau_of(sizes, (low + high) / 2)


def _probabilities(sizes: tuple[int, ...], strength: float) -> list[float]:
    """The probability of each number of discordant pairs."""
    logs = [known - strength * number for number, known in enumerate(_logs(sizes))]
    largest = max(logs)
    weights = [exp(one - largest) for one in logs]
    total = sum(weights)
    return [weight / total for weight in weights]


@cache
def _logs(sizes: tuple[int, ...]) -> tuple[float, ...]:
    """Logarithms of how many orders have 0, 1, 2, ... discordant pairs."""
    ways = [1]
    for size in (size for most in sizes for size in range(2, most + 1)):
        # The next member of a group takes one of `size` places, and adds 0 to `size` - 1 inversions.
        sums, known = [0, *accumulate(ways)], len(ways)
        ways = [sums[min(number, known)] - sums[max(0, number - size)] for number in range(1, known + size)]
    return tuple(log(number) for number in ways)
