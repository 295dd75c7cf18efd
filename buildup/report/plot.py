"""The charts of a comparison. Each run has its own colour and its own shape of marks."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite

from buildup.report.axes import Scale, axis_text, horizontal_grid, picture, rounded
from buildup.report.words import escape

LEFT, RIGHT, TOP, BOTTOM = 62, 650, 14, 320
LEGEND_LINE = 20
MOST_SERIES = 6
"""Number of colours and shapes; a comparison of more runs repeats them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Dot:
    """One value; `title` is shown on hover."""

    x: float
    y: float
    title: str
    large: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """The values of one run."""

    name: str
    dots: tuple[Dot, ...]
    joined: bool = False
    """Whether a step line joins the values."""


def plot_svg(series: Sequence[Series], *, label: str, across: str, up: str) -> str:
    """All series in one panel, with a legend on the right."""
    dots = [dot for one in series for dot in one.dots if isfinite(dot.y)]
    x_ticks, y_ticks = (
        rounded(min(values, default=0.0), max(values, default=1.0), 7)
        for values in ([dot.x for dot in dots], [dot.y for dot in dots])
    )
    x, y = Scale(x_ticks[0], x_ticks[-1], LEFT, RIGHT), Scale(y_ticks[0], y_ticks[-1], BOTTOM, TOP)
    parts = horizontal_grid(y_ticks, y, LEFT, RIGHT)
    parts += [axis_text(x(tick), BOTTOM + 20, f"{tick:g}") for tick in x_ticks]
    parts.append(axis_text((LEFT + RIGHT) / 2, BOTTOM + 42, across))
    parts.append(f'<text class="axis" x="{LEFT}" y="{TOP - 2}" dy="-6">{escape(up)}</text>')
    for number, one in enumerate(series):
        parts.append(_drawn(one, number % MOST_SERIES, x, y))
        height = TOP + 14 + LEGEND_LINE * number
        parts.append(_mark(number % MOST_SERIES, RIGHT + 28, height - 4, 5, one.name))
        name = one.name if len(one.name) <= 26 else f"{one.name[:25]}…"
        parts.append(f'<text x="{RIGHT + 42}" y="{height}">{escape(name)}</text>')
    bottom = max(BOTTOM + 54, TOP + 24 + LEGEND_LINE * len(series))
    return picture(bottom + 14, label, [f'<g transform="translate(0 14)">{"".join(parts)}</g>'])


def _drawn(one: Series, number: int, x: Scale, y: Scale) -> str:
    known = [dot for dot in one.dots if isfinite(dot.y)]
    parts = []
    if one.joined and known:
        way = f"M{x(known[0].x)} {y(known[0].y)}" + "".join(f"H{x(dot.x)}V{y(dot.y)}" for dot in known[1:])
        parts.append(f'<path class="run run{number} way" d="{way}"/>')
    parts += [_mark(number, x(dot.x), y(dot.y), 6.5 if dot.large else 4, dot.title) for dot in known]
    return f"<g>{''.join(parts)}</g>"


def _mark(number: int, x: float, y: float, size: float, title: str) -> str:
    """A mark of a series: circle, square, diamond, triangle, cross or plus."""
    said = f"<title>{escape(title)}</title>"
    kind = f'class="run run{number}"'
    s, d = round(size, 1), round(1.3 * size, 1)
    if number == 0:
        return f'<circle {kind} cx="{x}" cy="{y}" r="{s}">{said}</circle>'
    ways = {
        1: f"M{x - s} {y - s}h{2 * s}v{2 * s}h{-2 * s}z",
        2: f"M{x} {y - d}l{d} {d}l{-d} {d}l{-d} {-d}z",
        3: f"M{x} {y - s}l{s} {2 * s}h{-2 * s}z",
        4: f"M{x - s} {y - s}l{2 * s} {2 * s}m0 {-2 * s}l{-2 * s} {2 * s}",
        5: f"M{x - s} {y}h{2 * s}M{x} {y - s}v{2 * s}",
    }
    return f'<path {kind} d="{ways[number]}">{said}</path>'
