"""The charts of a comparison: a colour and a shape for each run, so that either tells them apart."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import isfinite

from buildup.report.axes import picture, rounded
from buildup.report.words import escape

LEFT, RIGHT, TOP, BOTTOM = 62, 650, 14, 320
LINE = 20
MOST_SERIES = 6
"""Colours and shapes; a longer comparison begins with them again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Dot:
    """One value, with what it says when pointed at."""

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
    """Whether each value lasts until the next one."""


def plot_svg(series: Sequence[Series], *, label: str, across: str, up: str) -> str:
    """All series in one panel, with a legend beside it."""
    dots = [dot for one in series for dot in one.dots if isfinite(dot.y)]
    across_ticks, up_ticks = (
        rounded(min(values, default=0.0), max(values, default=1.0), 7)
        for values in ([dot.x for dot in dots], [dot.y for dot in dots])
    )

    def x(value: float) -> float:
        return round(LEFT + (value - across_ticks[0]) / (across_ticks[-1] - across_ticks[0]) * (RIGHT - LEFT), 1)

    def y(value: float) -> float:
        return round(BOTTOM - (value - up_ticks[0]) / (up_ticks[-1] - up_ticks[0]) * (BOTTOM - TOP), 1)

    parts = []
    for tick in up_ticks:
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{RIGHT}" y1="{y(tick)}" y2="{y(tick)}"/>')
        parts.append(f'<text class="axis" x="{LEFT - 8}" y="{y(tick) + 4}" text-anchor="end">{tick:g}</text>')
    parts += [
        f'<text class="axis" x="{x(tick)}" y="{BOTTOM + 20}" text-anchor="middle">{tick:g}</text>'
        for tick in across_ticks
    ]
    middle = (LEFT + RIGHT) / 2
    parts.append(f'<text class="axis" x="{middle}" y="{BOTTOM + 42}" text-anchor="middle">{escape(across)}</text>')
    parts.append(f'<text class="axis" x="{LEFT}" y="{TOP - 2}" dy="-6">{escape(up)}</text>')
    for number, one in enumerate(series):
        parts.append(_drawn(one, number % MOST_SERIES, x, y))
        height = TOP + 14 + LINE * number
        parts.append(_mark(number % MOST_SERIES, RIGHT + 28, height - 4, 5, one.name))
        name = one.name if len(one.name) <= 26 else f"{one.name[:25]}…"
        parts.append(f'<text x="{RIGHT + 42}" y="{height}">{escape(name)}</text>')
    bottom = max(BOTTOM + 54, TOP + 24 + LINE * len(series))
    return picture(bottom + 14, label, [f'<g transform="translate(0 14)">{"".join(parts)}</g>'])


def _drawn(one: Series, number: int, x: Callable[[float], float], y: Callable[[float], float]) -> str:
    known = [dot for dot in one.dots if isfinite(dot.y)]
    parts = []
    if one.joined and known:
        way = f"M{x(known[0].x)} {y(known[0].y)}" + "".join(f"H{x(dot.x)}V{y(dot.y)}" for dot in known[1:])
        parts.append(f'<path class="run run{number} way" d="{way}"/>')
    parts += [_mark(number, x(dot.x), y(dot.y), 6.5 if dot.large else 4, dot.title) for dot in known]
    return f"<g>{''.join(parts)}</g>"


def _mark(number: int, x: float, y: float, size: float, title: str) -> str:
    """The shape of a series: circle, square, diamond, triangle, cross, plus."""
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
