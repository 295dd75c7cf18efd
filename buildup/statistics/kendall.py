"""How well the order of one row of numbers tells the order of another: Kendall's tau, honest for a handful of pairs.

Five verdicts hold ten pairs, which are far from independent, so no normal approximation is trusted here. The number of
discordant pairs has a known distribution over all orders (that of the inversions of a permutation), and stays easy to
count when orders are likelier the fewer inversions they have (Mallows' model, whose parameter is a true tau between
-1 and 1). The p-value counts orders at a true tau of zero; the interval holds the true values whose counts do not
contradict what was seen, each side at half the error. So zero lies outside of it just when p is below one minus the
level, and perfect agreement of four things, as likely as 1 in 24 by chance, proves nothing.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import combinations
from math import comb, exp, log

STEPS = 60
"""Halvings of the range in which an end of the interval is looked for."""
STRONGEST = 60.0
"""Mallows parameter at which nothing but perfect agreement is left."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreement:
    """How well two orders agree."""

    tau: float
    """Share of pairs in the same order less that of pairs in the opposite one; a tie is neither."""
    low: float
    high: float
    p: float
    """How often chance alone agrees or disagrees so much: exact without ties."""
    count: int
    """How many things were compared with another one."""
    level: float


def kendall(
    first: Sequence[float], second: Sequence[float], level: float = 0.95, *, groups: Sequence[object] = ()
) -> Agreement:
    """Kendall's tau of two rows, with an interval and a two-sided p-value.

    A tie in either row says nothing of its pair: the interval and p hold whichever way each of them is broken.

    >>> agreement = kendall([1, 2, 3, 4], [0.1, 0.2, 0.5, 0.9])
    >>> agreement.tau, round(agreement.low, 2), agreement.high, round(agreement.p, 3)
    (1.0, -0.12, 1.0, 0.083)

    Args:
        first: One row of numbers.
        second: The other one, of the same things.
        level: Of the interval.
        groups: What each thing belongs to, where only things of one group can be compared with each other.
    """
    groups = groups or (0,) * len(first)
    sizes = tuple(sorted(size for size in Counter(groups).values() if size > 1))
    assert len(first) == len(second) == len(groups), "both rows are of the same things"
    assert sizes, "an order takes two things"
    signs = [
        _sign(one - other) * _sign(this - that)
        for (one, this, mine), (other, that, theirs) in combinations(zip(first, second, groups, strict=True), 2)
        if mine == theirs
    ]
    discordant, tied = signs.count(-1), signs.count(0)
    low, high, p = _bounds(discordant, discordant + tied, sizes, (1 - level) / 2)
    return Agreement(tau=sum(signs) / len(signs), low=low, high=high, p=p, count=sum(sizes), level=level)


def at_most(discordant: int, sizes: tuple[int, ...], strength: float) -> float:
    """The probability of so few discordant pairs, or fewer, in groups of these sizes that follow Mallows' model."""
    return sum(_probabilities(sizes, strength)[: discordant + 1])


def at_least(discordant: int, sizes: tuple[int, ...], strength: float) -> float:
    """The probability of so many discordant pairs, or more."""
    return sum(_probabilities(sizes, strength)[discordant:])


def tau_of(sizes: tuple[int, ...], strength: float) -> float:
    """The mean tau of groups that follow Mallows' model, which is what the interval is for."""
    shares = _probabilities(sizes, strength)
    return 1 - 2 * sum(number * share for number, share in enumerate(shares)) / (len(shares) - 1)


@cache
def _bounds(fewest: int, most: int, sizes: tuple[int, ...], error: float) -> tuple[float, float, float]:
    """Both ends of the interval, and p, where so many pairs are discordant."""
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
        # The next thing of a group takes one of `size` places, and adds 0 to `size` - 1 inversions.
        grown, running = [], 0
        for number in range(len(ways) + size - 1):
            running += ways[number] if number < len(ways) else 0
            running -= ways[number - size] if number - size >= 0 else 0
            grown.append(running)
        ways = grown
    return tuple(log(number) for number in ways)


def _sign(number: float) -> int:
    return (number > 0) - (number < 0)
