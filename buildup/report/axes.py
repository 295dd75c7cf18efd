"""The common parts of charts: scales, grids, marks with intervals, and the SVG element around them."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, floor, log10

from buildup.report.words import escape

CHART_WIDTH = 900


@dataclass(frozen=True, slots=True)
class Scale:
    """A linear map from values to positions in the picture: from `low` at `start` to `high` at `end`."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        return round(self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start), 1)


def rounded(low: float, high: float, most: int) -> list[float]:
    """Round numbers for an axis, from at most the lowest value to at least the highest.

    >>> rounded(-0.63, 0.97, 7)
    [-1.0, -0.5, 0.0, 0.5, 1.0]
    """
    # Scores have two decimals. A narrower range would only magnify their rounding.
    high = max(high, low + 0.1)
    span = high - low
    power = 10.0 ** floor(log10(span / most))
    step = next(step for step in (power, 2 * power, 5 * power, 10 * power) if span / step <= most)
    first, last = floor(low / step + 1e-9), ceil(high / step - 1e-9)
    return [round(number * step, 10) for number in range(first, max(last, first + 1) + 1)]


def horizontal_grid(ticks: Sequence[float], y: Scale, left: float, right: float) -> list[str]:
    """A line per tick across the panel, with its number on the left."""
    return [
        f'<line class="grid" x1="{left}" x2="{right}" y1="{y(tick)}" y2="{y(tick)}"/>'
        f'<text class="axis" x="{left - 8}" y="{y(tick) + 4}" text-anchor="end">{tick:g}</text>'
        for tick in ticks
    ]


def vertical_grid(ticks: Sequence[float], x: Scale, top: float, bottom: float, label: str) -> list[str]:
    """A line per tick, the one at zero highlighted, with signed numbers and a label below."""
    lines = [
        f'<line class="{"grid" if tick else "zero"}" x1="{x(tick)}" x2="{x(tick)}" y1="{top}" y2="{bottom}"/>'
        + axis_text(x(tick), bottom + 18, f"{tick:+g}" if tick else "0")
        for tick in ticks
    ]
    return [*lines, axis_text((x.start + x.end) / 2, bottom + 38, label)]


def axis_text(x: float, y: float, text: str) -> str:
    """A centred text in the style of axes."""
    return f'<text class="axis" x="{x}" y="{y}" text-anchor="middle">{escape(text)}</text>'


def interval_mark(kind: str, y: float, low: float, middle: float, high: float) -> str:
    """A value with its interval: a filled circle of the kind `kept`, an open diamond of the kind `dropped`."""
    caps = f"M{low} {y - 5}v10M{high} {y - 5}v10"
    line = f'<path class="{kind}" d="M{low} {y}H{high}{caps}"/>' if low != high else ""
    if kind == "kept":
        return f'{line}<circle class="kept" cx="{middle}" cy="{y}" r="5"/>'
    return f'{line}<path class="dropped" d="M{middle - 6} {y}l6 -6l6 6l-6 6z"/>'


def picture(height: float, label: str, parts: Sequence[str]) -> str:
    """A chart as SVG; screen readers read the label."""
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" class="chart" role="img" aria-label="{escape(label)}" '
        f'viewBox="0 0 {CHART_WIDTH} {height:g}">{"".join(parts)}</svg>'
    )
