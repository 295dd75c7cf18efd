"""What all charts share: their width, the numbers along their axes, and the picture around them."""

from collections.abc import Sequence
from math import ceil, floor, log10

from buildup.report.words import escape

WIDTH = 900


def rounded(low: float, high: float, most: int) -> list[float]:
    """Round numbers that reach from below the lowest value to above the highest.

    >>> rounded(-0.63, 0.97, 7)
    [-1.0, -0.5, 0.0, 0.5, 1.0]
    """
    # Scores have two digits after the point: a narrower range would only enlarge their rounding.
    high = max(high, low + 0.1)
    span = high - low
    power = 10.0 ** floor(log10(span / most))
    step = next(step for step in (power, 2 * power, 5 * power, 10 * power) if span / step <= most)
    first, last = floor(low / step + 1e-9), ceil(high / step - 1e-9)
    return [round(number * step, 10) for number in range(first, max(last, first + 1) + 1)]


def picture(height: float, label: str, parts: Sequence[str]) -> str:
    """An SVG with a sentence for those who can't see it."""
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" class="chart" role="img" aria-label="{escape(label)}" '
        f'viewBox="0 0 {WIDTH} {height:g}">{"".join(parts)}</svg>'
    )
