"""The charts of the report as SVG, drawn with the classes of its style sheet."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from math import ceil, isfinite
from statistics import fmean

from buildup.report.axes import picture, rounded
from buildup.report.diagnostic_table import Correlation
from buildup.report.findings import Role
from buildup.report.words import escape, gain, has_failed, interval, places
from buildup.trials.decision import Decision
from buildup.trials.objective import OBJECTIVES

PANEL_TOP, PANEL_BOTTOM = 14, 300
LINE = 17
"""Height of a line of text."""
ENLARGED_FROM = 6
"""Epochs of the longest training from which on its last third is drawn once more, enlarged."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """The score of one training, epoch by epoch."""

    name: str
    role: Role
    values: tuple[float, ...]


def gains_svg(decisions: Sequence[Decision]) -> str:
    """Gains with their intervals, a row a step: a filled circle was kept, an open diamond dropped, x has no score."""
    left, right, top, row = 250, 720, 12, 30
    drawn = [decision for decision in decisions if _can_be_drawn(decision)]
    ends = [0.0, *(end for decision in drawn for end in (decision.gain, *decision.ci))]
    ticks = rounded(min(ends), max(ends), 7)
    bottom = top + row * len(decisions)

    def x(value: float) -> float:
        return round(left + (value - ticks[0]) / (ticks[-1] - ticks[0]) * (right - left), 1)

    parts = []
    for tick in ticks:
        kind = "zero" if tick == 0 else "grid"
        parts.append(f'<line class="{kind}" x1="{x(tick)}" x2="{x(tick)}" y1="{top}" y2="{bottom}"/>')
        label = f"{tick:+g}" if tick else "0"
        parts.append(f'<text class="axis" x="{x(tick)}" y="{bottom + 18}" text-anchor="middle">{label}</text>')
    parts.append(
        f'<text class="axis" x="{(left + right) / 2}" y="{bottom + 38}" text-anchor="middle">'
        f"gain over its parent, in {escape(_unit(decisions))}</text>"
    )
    for number, decision in enumerate(decisions):
        parts.append(_gain_row(decision, top + row * (number + 0.5), left, right, x(0.0), _marks(decision, x)))
    return picture(bottom + 48, "Gain of each step over its parent, with its interval", parts)


def taus_svg(correlations: Sequence[Correlation]) -> str:
    """Rank correlations with their intervals: a filled circle is known before training, an open diamond after it."""
    left, right, top, row = 280, 660, 12, 26
    bottom = top + row * len(correlations)

    def x(value: float) -> float:
        return round(left + (value + 1) / 2 * (right - left), 1)

    parts = []
    for tick in (-1.0, -0.5, 0.0, 0.5, 1.0):
        kind = "grid" if tick else "zero"
        parts.append(f'<line class="{kind}" x1="{x(tick)}" x2="{x(tick)}" y1="{top}" y2="{bottom}"/>')
        label = f"{tick:+g}" if tick else "0"
        parts.append(f'<text class="axis" x="{x(tick)}" y="{bottom + 18}" text-anchor="middle">{label}</text>')
    parts.append(
        f'<text class="axis" x="{(left + right) / 2}" y="{bottom + 38}" text-anchor="middle">'
        "Kendall’s tau with the gain; 0 is chance, lines are 95 % intervals</text>"
    )
    for number, one in enumerate(correlations):
        y, low, middle, high = top + row * (number + 0.5), x(one.low), x(one.tau), x(one.high)
        kind, when = ("kept", "before") if one.when == "before" else ("dropped", "after")
        mark = (
            f'<circle class="kept" cx="{middle}" cy="{y}" r="5"/>'
            if when == "before"
            else f'<path class="dropped" d="M{middle - 6} {y}l6 -6l6 6l-6 6z"/>'
        )
        parts.append(
            f"<g><title>{escape(f'{one.name}, known {when} training, {one.count} verdicts')}</title>"
            f'<text x="{left - 80}" y="{y + 4}" text-anchor="end">{escape(one.name)}</text>'
            f'<text class="axis" x="{left - 18}" y="{y + 4}" text-anchor="end">{when}</text>'
            f'<path class="{kind}" d="M{low} {y}H{high}M{low} {y - 5}v10M{high} {y - 5}v10"/>{mark}'
            f'<text class="value" x="{right + 18}" y="{y + 4}">{one.tau:+.2f} '
            f'<tspan class="axis">{one.low:+.2f} to {one.high:+.2f}, p = {one.p:.2g}</tspan></text></g>'
        )
    return picture(bottom + 48, "How far each diagnostic puts the verdicts into the order of their gains", parts)


def curves_svg(curves: Sequence[Curve], measure: str) -> str:
    """Scores by epoch, a thin line a training; base and winner stand out and are named where they end.

    What decides happens at the end, in a range that is small beside the whole: longer trainings show their last
    third once more, enlarged, on the right.
    """
    ordered = sorted(curves, key=lambda curve: ("other", "base", "winner").index(curve.role))
    epochs = max(len(curve.values) for curve in ordered)
    if epochs < ENLARGED_FROM:
        panels = [_panel(ordered, 1, max(2, epochs), 52, 720)]
    else:
        panels = [_panel(ordered, 1, epochs, 52, 366), _panel(ordered, ceil(2 * epochs / 3), epochs, 424, 738)]
    parts = [part for panel in panels for part in _draw(panel, ordered)]
    parts += _end_labels(panels[-1], ordered)
    return picture(PANEL_BOTTOM + 48, f"{measure} of each training by epoch", parts)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Panel:
    """A range of epochs and scores, and where it lies in the picture."""

    first: int
    last: int
    ticks: tuple[float, ...]
    left: int
    right: int

    def x(self, epoch: float) -> float:
        share = (epoch - self.first) / (self.last - self.first)
        return round(self.left + share * (self.right - self.left), 1)

    def y(self, value: float) -> float:
        share = (value - self.ticks[0]) / (self.ticks[-1] - self.ticks[0])
        return round(PANEL_BOTTOM - share * (PANEL_BOTTOM - PANEL_TOP), 1)

    def dots(self, curve: Curve) -> list[tuple[float, float]]:
        """The part of a curve that falls into it."""
        return [(self.x(epoch), self.y(value)) for epoch, value in _between(curve, self.first, self.last)]


def _panel(curves: Sequence[Curve], first: int, last: int, left: int, right: int) -> _Panel:
    values = [value for curve in curves for _, value in _between(curve, first, last)]
    ticks = rounded(min(values, default=0.0), max(values, default=1.0), 7)
    return _Panel(first=first, last=last, ticks=tuple(ticks), left=left, right=right)


def _between(curve: Curve, first: int, last: int) -> list[tuple[int, float]]:
    epochs = enumerate(curve.values, start=1)
    return [(epoch, value) for epoch, value in epochs if first <= epoch <= last and isfinite(value)]


def _draw(panel: _Panel, curves: Sequence[Curve]) -> Iterator[str]:
    for tick in panel.ticks:
        y = panel.y(tick)
        yield f'<line class="grid" x1="{panel.left}" x2="{panel.right}" y1="{y}" y2="{y}"/>'
        yield f'<text class="axis" x="{panel.left - 8}" y="{y + 4}" text-anchor="end">{tick:g}</text>'
    below = PANEL_BOTTOM + 20
    for epoch in rounded(panel.first, panel.last, 7):
        if epoch == int(epoch) and panel.first <= epoch <= panel.last:
            yield f'<text class="axis" x="{panel.x(epoch)}" y="{below}" text-anchor="middle">{epoch:g}</text>'
    middle = (panel.left + panel.right) / 2
    which = "epoch" if panel.first == 1 else "epoch, the last third enlarged"
    yield f'<text class="axis" x="{middle}" y="{below + 20}" text-anchor="middle">{which}</text>'
    for curve in curves:
        if dots := panel.dots(curve):
            # A lone dot needs a line of some length to be seen; its round cap makes it one.
            way = "L".join(f"{x} {y}" for x, y in dots) + ("h0.01" if len(dots) == 1 else "")
            yield f'<path class="curve {curve.role}" d="M{way}"><title>{escape(curve.name)}</title></path>'


def _end_labels(panel: _Panel, curves: Sequence[Curve]) -> Iterator[str]:
    """One label a role at the mean height of its ends, pushed apart until none covers another."""
    ends: dict[Role, list[float]] = {}
    for curve in curves:
        if dots := panel.dots(curve):
            ends.setdefault(curve.role, []).append(dots[-1][1])
    lowest = 0.0
    for number, (height, role) in enumerate(sorted((fmean(heights), role) for role, heights in ends.items())):
        room_below = LINE * (len(ends) - 1 - number)
        lowest = max(min(height, PANEL_BOTTOM - room_below), lowest + LINE if number else 0.0)
        several = len(ends[role]) > 1
        name = f"{'others' if role == 'other' and several else role}{f' ({len(ends[role])})' if several else ''}"
        yield f'<text class="{role}" x="{panel.right + 12}" y="{lowest + 4:.1f}">{name}</text>'


def _unit(decisions: Sequence[Decision]) -> str:
    return next((f"{one.unit} of {OBJECTIVES[one.objective].title}" for one in decisions), "points")


def _can_be_drawn(decision: Decision) -> bool:
    return not has_failed(decision) and all(isfinite(value) for value in (decision.gain, *decision.ci))


def _marks(decision: Decision, x: Callable[[float], float]) -> tuple[float, float, float] | None:
    return (x(decision.ci[0]), x(decision.gain), x(decision.ci[1])) if _can_be_drawn(decision) else None


def _gain_row(
    decision: Decision, y: float, left: int, right: int, zero: float, marks: tuple[float, float, float] | None
) -> str:
    kind = "kept" if decision.kept else "dropped"
    place = places(decision.edit)
    place = place if len(place) <= 24 else f"{place[:23]}…"
    parts = [
        f"<title>{escape(f'step {decision.step}: {decision.edit}; {decision.reason}')}</title>",
        f'<text class="axis" x="22" y="{y + 4}" text-anchor="end">{decision.step}</text>',
        f'<text x="34" y="{y + 4}">{escape(place)}</text>',
        f'<text class="{kind}" x="{left - 14}" y="{y + 4}" text-anchor="end">{kind}</text>',
    ]
    if marks is None:
        parts.append(f'<path class="dropped" d="M{zero - 5} {y - 5}l10 10m0 -10l-10 10"/>')
        parts.append(f'<text class="axis" x="{zero + 14}" y="{y + 4}">no score</text>')
    else:
        low, middle, high = marks
        if low != high:
            caps = f"M{low} {y - 5}v10M{high} {y - 5}v10"
            parts.append(f'<path class="{kind}" d="M{low} {y}H{high}{caps}"/>')
        shape = (
            f'<circle class="kept" cx="{middle}" cy="{y}" r="5"/>'
            if decision.kept
            else f'<path class="dropped" d="M{middle - 6} {y}l6 -6l6 6l-6 6z"/>'
        )
        parts.append(shape)
        ends = "" if not decision.level else f' <tspan class="axis">{escape(interval(decision))}</tspan>'
        parts.append(f'<text class="value" x="{right + 18}" y="{y + 4}">{gain(decision)}{ends}</text>')
    return f"<g>{''.join(parts)}</g>"
