"""How the error of one verdict is spent over its interim analyses.

A verdict may be made after each seed. If each analysis used the whole error, chance would have many tries. An
alpha-spending function bounds the error that is used up by a share t of the seeds: alpha * t^5, so that most of it is
left for the last analyses, where most gains are found. The bounds follow from the joint distribution of the analyses:
sums of independent normal differences. They are computed on a grid, from one analysis to the next.
"""

from functools import cache
from math import sqrt

import numpy as np

from buildup.statistics.distributions import normal_cdf

EXPONENT = 5
REACH = 7.0
"""Standard deviations that the grid covers."""
POINTS = 400
BISECTIONS = 50


@cache
def error_bounds(first: int, last: int, error: float) -> tuple[float, ...]:
    """The largest one-sided p-value that is significant, at each analysis from the first to the last number of seeds.

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
