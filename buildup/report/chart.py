"""The charts of reports as SVG: gains, learning curves, and the plots of a comparison."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, floor, isfinite, log10
from statistics import fmean

from buildup.report.findings import Role
from buildup.report.words import edited_paths, escape, gain_text, has_failed, interval_text
from buildup.trials.decision import Decision
from buildup.trials.objective import OBJECTIVES

CHART_WIDTH = 900
NARROW_WIDTH = 440
"""Of a chart for phones."""


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
    return [
        f'<line class="grid" x1="{left}" x2="{right}" y1="{y(tick)}" y2="{y(tick)}"/>'
        f'<text class="axis" x="{left - 8}" y="{y(tick) + 4}" text-anchor="end">{tick:g}</text>'
        for tick in ticks
    ]


def axis_text(x: float, y: float, text: str) -> str:
    return f'<text class="axis" x="{x}" y="{y}" text-anchor="middle">{escape(text)}</text>'


def picture(height: float, label: str, parts: Sequence[str], *, width: float = CHART_WIDTH) -> str:
    """A chart as SVG; screen readers read the label."""
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" class="chart" role="img" aria-label="{escape(label)}" '
        f'viewBox="0 0 {width:g} {height:g}">{"".join(parts)}</svg>'
    )


PANEL_TOP, PANEL_BOTTOM = 14, 300
LABEL_HEIGHT = 17
ENLARGED_FROM = 6
"""From this many epochs of the longest training on, a second panel enlarges the last third."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """The score of one training after each epoch."""

    name: str
    role: Role
    values: tuple[float, ...]


def gains_svg(decisions: Sequence[Decision], *, narrow: bool = False) -> str:
    """Gains with their intervals, one row per step. In the narrow form, the text of a step stands above its interval.

    A filled circle is a kept step, an open diamond a dropped one, a cross one without a score.
    """
    left, right, top, row = (16, 330, 12, 50) if narrow else (300, 720, 12, 30)
    ends = [0.0, *(end for one in decisions if _has_finite_gain(one) for end in (one.gain, *one.ci))]
    ticks = rounded(min(ends), max(ends), 7)
    x, bottom = Scale(ticks[0], ticks[-1], left, right), top + row * len(decisions)
    unit = next((f"{one.unit} of {OBJECTIVES[one.objective].title}" for one in decisions), "points")
    parts = [
        f'<line class="{"grid" if tick else "zero"}" x1="{x(tick)}" x2="{x(tick)}" y1="{top}" y2="{bottom}"/>'
        + axis_text(x(tick), bottom + 18, f"{tick:+g}" if tick else "0")
        for tick in ticks
    ]
    parts.append(axis_text((left + right) / 2, bottom + 38, f"gain over the parent, in {unit}"))
    for number, decision in enumerate(decisions):
        y = top + row * (number + (0.68 if narrow else 0.5))
        kind, paths = "kept" if decision.kept else "dropped", edited_paths(decision.edit)
        paths = paths if len(paths) <= 24 else f"{paths[:23]}…"
        mark = (
            f'<path class="dropped" d="M{x(0.0) - 5} {y - 5}l10 10m0 -10l-10 10"/>'
            f'<text class="axis" x="{x(0.0) + 14}" y="{y + 4}">no score</text>'
        )
        if _has_finite_gain(decision):
            low, middle, high = x(decision.ci[0]), x(decision.gain), x(decision.ci[1])
            line = f'<path class="{kind}" d="M{low} {y}H{high}M{low} {y - 5}v10M{high} {y - 5}v10"/>'
            mark = line if low != high else ""
            if decision.kept:
                mark += f'<circle class="kept" cx="{middle}" cy="{y}" r="5"/>'
            else:
                mark += f'<path class="dropped" d="M{middle - 6} {y}l6 -6l6 6l-6 6z"/>'
            shown = decision.level and not narrow
            between = f' <tspan class="axis">{escape(interval_text(decision))}</tspan>' if shown else ""
            mark += f'<text class="value" x="{right + 18}" y="{y + 4}">{gain_text(decision)}{between}</text>'
        words = (
            f'<text class="axis" x="{left - 8}" y="{y - 15}">{decision.step}</text>'
            f'<text x="{left + 12}" y="{y - 15}">{escape(paths)}</text>'
            f'<text class="{kind}" x="{NARROW_WIDTH - 8}" y="{y - 15}" text-anchor="end">{kind}</text>'
            if narrow
            else f'<text class="axis" x="22" y="{y + 4}" text-anchor="end">{decision.step}</text>'
            f'<text x="34" y="{y + 4}">{escape(paths)}</text>'
            f'<text class="{kind}" x="{left - 14}" y="{y + 4}" text-anchor="end">{kind}</text>'
        )
        parts.append(
            f"<g><title>{escape(f'step {decision.step}: {decision.edit}; {decision.reason}')}</title>{words}{mark}</g>"
        )
    width = NARROW_WIDTH if narrow else CHART_WIDTH
    return picture(bottom + 48, "Gain of each step over its parent, with its interval", parts, width=width)


def _has_finite_gain(decision: Decision) -> bool:
    return not has_failed(decision) and all(isfinite(value) for value in (decision.gain, *decision.ci))


def curves_svg(curves: Sequence[Curve], measure: str, *, narrow: bool = False) -> str:
    """Scores by epoch, one line per training; base and winner stand out.

    Trainings differ most visibly at their end, in a range that is small compared to the whole. Long trainings therefore
    get a second panel that enlarges their last third, except in the narrow form.
    """
    ordered = sorted(curves, key=lambda curve: ("other", "base", "winner").index(curve.role))
    epochs = max(len(curve.values) for curve in ordered)
    if narrow or epochs < ENLARGED_FROM:
        right = 330 if narrow else 720
        parts, ends = _panel(ordered, 1, max(2, epochs), 52, right)
    else:
        right = 738
        parts, _ = _panel(ordered, 1, epochs, 52, 366)
        enlarged, ends = _panel(ordered, ceil(2 * epochs / 3), epochs, 424, right)
        parts += enlarged
    # One label per role at the mean height of its ends, moved apart until none overlap.
    lowest = 0.0
    for number, (height, role) in enumerate(sorted((fmean(heights), role) for role, heights in ends.items())):
        room_below = LABEL_HEIGHT * (len(ends) - 1 - number)
        lowest = max(min(height, PANEL_BOTTOM - room_below), lowest + LABEL_HEIGHT if number else 0.0)
        several = len(ends[role]) > 1
        name = f"{'others' if role == 'other' and several else role}{f' ({len(ends[role])})' if several else ''}"
        parts.append(f'<text class="{role}" x="{right + 12}" y="{lowest + 4:.1f}">{name}</text>')
    width = NARROW_WIDTH if narrow else CHART_WIDTH
    return picture(PANEL_BOTTOM + 48, f"{measure} of each training by epoch", parts, width=width)


def _panel(
    curves: Sequence[Curve], first: int, last: int, left: int, right: int
) -> tuple[list[str], dict[Role, list[float]]]:
    """The curves between two epochs, and the heights at which the curves of each role end."""
    values = [
        [(epoch, value) for epoch, value in enumerate(curve.values, start=1) if first <= epoch <= last]
        for curve in curves
    ]
    finite = [[(epoch, value) for epoch, value in one if isfinite(value)] for one in values]
    scores = [value for one in finite for _, value in one]
    ticks = rounded(min(scores, default=0.0), max(scores, default=1.0), 7)
    x, y = Scale(first, last, left, right), Scale(ticks[0], ticks[-1], PANEL_BOTTOM, PANEL_TOP)
    parts = horizontal_grid(ticks, y, left, right)
    for epoch in rounded(first, last, 7):
        if epoch == int(epoch) and first <= epoch <= last:
            parts.append(axis_text(x(epoch), PANEL_BOTTOM + 20, f"{epoch:g}"))
    label = "epoch" if first == 1 else "epoch, the last third enlarged"
    parts.append(axis_text((left + right) / 2, PANEL_BOTTOM + 40, label))
    ends: dict[Role, list[float]] = {}
    for curve, dots in zip(curves, finite, strict=True):
        if dots:
            # A single dot needs a line of some length, or its round cap isn't drawn.
            way = "L".join(f"{x(epoch)} {y(value)}" for epoch, value in dots) + ("h0.01" if len(dots) == 1 else "")
            parts.append(f'<path class="curve {curve.role}" d="M{way}"><title>{escape(curve.name)}</title></path>')
            ends.setdefault(curve.role, []).append(y(dots[-1][1]))
    return parts, ends


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
    small: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """The values of one run."""

    name: str
    dots: tuple[Dot, ...]
    joined: bool = False
    """Whether a step line joins the values."""


def plot_svg(series: Sequence[Series], *, label: str, across: str, up: str, narrow: bool = False) -> str:
    """All series in one panel, with a legend on the right, or below it in the narrow form."""
    right = NARROW_WIDTH - 20 if narrow else RIGHT
    dots = [dot for one in series for dot in one.dots if isfinite(dot.y)]
    x_ticks, y_ticks = (
        rounded(min(values, default=0.0), max(values, default=1.0), 7)
        for values in ([dot.x for dot in dots], [dot.y for dot in dots])
    )
    if all(dot.x == int(dot.x) for dot in dots):  # a count has no halves
        whole = [tick for tick in x_ticks if tick == int(tick)]
        x_ticks = whole if len(whole) > 1 else [whole[0], whole[0] + 1]
    x, y = Scale(x_ticks[0], x_ticks[-1], LEFT, right), Scale(y_ticks[0], y_ticks[-1], BOTTOM, TOP)
    parts = horizontal_grid(y_ticks, y, LEFT, right)
    parts += [axis_text(x(tick), BOTTOM + 20, f"{tick:g}") for tick in x_ticks]
    parts.append(axis_text((LEFT + right) / 2, BOTTOM + 42, across))
    parts.append(f'<text class="axis" x="{LEFT}" y="{TOP - 2}" dy="-6">{escape(up)}</text>')
    for number, one in enumerate(series):
        known = [dot for dot in one.dots if isfinite(dot.y)]
        sizes = [6.5 if dot.large else 2 if dot.small else 4 for dot in known]
        drawn = [
            _mark(number % MOST_SERIES, x(dot.x), y(dot.y), size, dot.title)
            for dot, size in zip(known, sizes, strict=True)
        ]
        if one.joined and known:
            way = f"M{x(known[0].x)} {y(known[0].y)}" + "".join(f"H{x(dot.x)}V{y(dot.y)}" for dot in known[1:])
            drawn.insert(0, f'<path class="run run{number % MOST_SERIES} way" d="{way}"/>')
        parts.append(f"<g>{''.join(drawn)}</g>")
        across_at, height = (LEFT, BOTTOM + 68) if narrow else (right + 28, TOP + 14)
        height += LEGEND_LINE * number
        parts.append(_mark(number % MOST_SERIES, across_at, height - 4, 5, one.name))
        name = one.name if len(one.name) <= 26 else f"{one.name[:25]}…"
        parts.append(f'<text x="{across_at + 14}" y="{height}">{escape(name)}</text>')
    bottom = (
        BOTTOM + 54 + LEGEND_LINE * len(series) if narrow else max(BOTTOM + 54, TOP + 24 + LEGEND_LINE * len(series))
    )
    moved = [f'<g transform="translate(0 14)">{"".join(parts)}</g>']
    return picture(bottom + 14, label, moved, width=NARROW_WIDTH if narrow else CHART_WIDTH)


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
