"""The figures of an analysis, drawn from its tables alone. The only door of matplotlib.

Colours are those of Okabe and Ito, which stay apart in the common forms of colour blindness; markers say the same.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import nan
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy.stats import gaussian_kde

from buildup.diagnostics.analysis import Rows

BLUE, ORANGE, GREEN, PURPLE, SKY, BLACK = "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#000000"
COLOURS = (BLUE, ORANGE, GREEN, PURPLE, SKY, BLACK)
MARKERS = {"conv": "o", "msa": "s", "mlp": "^", "smoothing": "D", "stem": ".", "subsampling": "v", "head": "."}
NAMES = {"conv": "Conv", "msa": "MSA", "mlp": "MLP", "smoothing": "smoothing", "subsampling": "subsampling"}
HIDDEN_ABOVE = 42.0
"""Above its minimum, a landscape is not drawn any more, as in the paper."""

STYLE: Any = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e3e3e3",
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "svg.fonttype": "none",
    "svg.hashsalt": "buildup",  # the same figure is the same file
    "text.parse_math": False,  # a dollar in a name is a dollar
    "figure.constrained_layout.use": True,
    "figure.dpi": 160,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """One measurement of one model."""

    label: str
    units: Rows
    rows: Rows


def draw(what: str, tables: Sequence[Table]) -> Figure:
    """The figure of a measurement, of one model or of several side by side."""
    with mpl.rc_context(STYLE):
        return _FIGURES[what](tables)


def _panels(tables: Sequence[Table], width: float, height: float, rows: int = 1, **how: Any) -> tuple[Figure, Any]:
    figure = Figure(figsize=(width * len(tables), height * rows))
    return figure, figure.subplots(rows, len(tables), squeeze=False, **how)


def _depth(axes: Axes, table: Table, column: str, rows: Rows, label: str) -> None:
    """A value over depth: a line, a marker a unit, bands where attention is, lines where the resolution falls."""
    last = max(1, len(table.units) - 1)
    _shade(axes, table)
    axes.plot([row["unit"] / last for row in rows], [row[column] for row in rows], color="#777777", lw=1, zorder=2)
    for kind in dict.fromkeys(row["kind"] for row in rows):
        own = [row for row in rows if row["kind"] == kind]
        colour = ORANGE if kind == "msa" else BLUE if kind == "conv" else GREEN
        axes.plot(
            [row["unit"] / last for row in own],
            [row[column] for row in own],
            MARKERS[kind],
            color=colour if kind in NAMES else "#555555",
            ms=5,
            label=NAMES.get(kind, kind),
            zorder=3,
        )
    axes.set(xlabel="normalised depth", ylabel=label, title=table.label, xlim=(-0.02, 1.02))
    axes.legend(fontsize=7, framealpha=0.9)


def _shade(axes: Axes, table: Table) -> None:
    last = max(1, len(table.units) - 1)
    label: str | None = "subsampling"
    for unit in table.units:
        place = unit["unit"] / last
        if unit["kind"] == "msa":
            axes.axvspan(place - 1 / last, place, color=ORANGE, alpha=0.13, lw=0, zorder=0)
        if unit["subsamples"]:
            axes.axvline(place, color="#444444", ls=(0, (3, 3)), lw=0.9, zorder=1, label=label)
            label = None  # one line in the legend stands for all


def _fourier(tables: Sequence[Table]) -> Figure:
    figure, panels = _panels(tables, 4.6, 3.1, rows=3)
    for number, table in enumerate(tables):
        units: dict[int, list[dict[str, Any]]] = {}
        for row in table.rows:
            units.setdefault(row["unit"], []).append(row)
        colours = mpl.colormaps["viridis"](np.linspace(0, 0.92, max(1, len(units))))
        curves: Axes = panels[0][number]
        for colour, rows in zip(colours, units.values(), strict=False):
            dashed = "--" if rows[0]["kind"] == "msa" else "-"
            curves.plot(
                [row["frequency"] for row in rows], [row["log_amplitude"] for row in rows], dashed, color=colour
            )
        curves.set(xlabel="frequency (π)", ylabel="Δ log amplitude", title=f"{table.label} (MSA dashed)", xlim=(0, 1))
        scale = mpl.cm.ScalarMappable(mpl.colors.Normalize(0, 1), "viridis")
        figure.colorbar(scale, ax=curves, label="normalised depth")
        ends = [rows[-1] for rows in units.values()]
        _depth(panels[1][number], table, "log_amplitude", ends, "Δ log amplitude, highest freq.")
        _depth(panels[2][number], table, "high_energy", ends, "energy share over π/2")
    return figure


def _variance(tables: Sequence[Table]) -> Figure:
    figure, panels = _panels(tables, 4.6, 3.1)
    for axes, table in zip(panels[0], tables, strict=True):
        _depth(axes, table, "variance", table.rows, "variance over space")
    return figure


def _lesion(tables: Sequence[Table]) -> Figure:
    figure, panels = _panels(tables, 4.6, 3.1, sharey=True)
    for axes, table in zip(panels[0], tables, strict=True):
        last = max(1, len(table.units) - 1)
        _shade(axes, table)
        styles = {"branch": (ORANGE, "s"), "convolution": (BLUE, "o"), "convolution, sampled": (SKY, "o")}
        for treatment, (colour, marker) in styles.items():
            own = [row for row in table.rows if row["treatment"] == treatment]
            if own:
                places = [row["unit"] / last for row in own]
                changes = [row["change"] for row in own]
                axes.vlines(places, 0, changes, color=colour, lw=1.4)
                axes.plot(places, changes, marker, color=colour, ms=5, label=f"without its {treatment}")
        axes.axhline(0, color="black", lw=0.8)
        axes.set(xlabel="normalised depth", ylabel="Δ accuracy (points)", title=table.label, xlim=(-0.02, 1.02))
        axes.legend(fontsize=7, loc="lower right")
    return figure


def _cka(tables: Sequence[Table]) -> Figure:
    figure, panels = _panels(tables, 4.4, 3.9)
    for axes, table in zip(panels[0], tables, strict=True):
        side = len(table.units)
        values = np.full((side, side), nan)
        for row in table.rows:
            values[row["unit"], row["other"]] = row["cka"]
        picture = axes.imshow(values, origin="lower", vmin=0, vmax=1, cmap="cividis")
        for unit in table.units:
            if unit["subsamples"]:
                for line in (axes.axvline, axes.axhline):
                    line(unit["unit"] - 0.5, color="white", lw=0.8, ls=(0, (3, 3)))
        axes.grid(visible=False)
        axes.set(xlabel="unit", ylabel="unit", title=table.label)
        figure.colorbar(picture, ax=axes, label="CKA (minibatch, unbiased)", shrink=0.85)
    return figure


def _noise(tables: Sequence[Table]) -> Figure:
    figure, panels = _panels(tables[:1], 4.6, 3.1)
    axes: Axes = panels[0][0]
    for table, colour, marker in zip(tables, COLOURS, "os^Dv<", strict=False):
        middles = [(row["low"] + row["high"]) / 2 for row in table.rows]
        axes.plot(middles, [-row["drop"] for row in table.rows], f"{marker}-", color=colour, ms=4, label=table.label)
    axes.axhline(0, color="black", lw=0.8)
    axes.set(xlabel="frequency of the noise (π)", ylabel="Δ accuracy (points)", xlim=(0, 1))
    axes.legend(fontsize=7)
    return figure


def _corruption(tables: Sequence[Table]) -> Figure:
    figure = Figure(figsize=(7.6, 4.2))
    left, right = figure.subplots(1, 2, width_ratios=(3, 2))
    kinds = list(dict.fromkeys(row["kind"] for row in tables[0].rows if row["severity"]))
    places = range(len(kinds))
    for table, colour, marker in zip(tables, COLOURS, "os^Dv<", strict=False):
        corrupted_part = [row for row in table.rows if row["severity"]]
        means = [np.mean([100 * row["error"] for row in corrupted_part if row["kind"] == kind]) for kind in kinds]
        # Hollow from the second model on, or equal values would hide each other.
        face = colour if table is tables[0] else "none"
        left.plot(means, places, marker, color=colour, mfc=face, mew=1.4, ms=6, label=table.label)
        severities = sorted({row["severity"] for row in table.rows})
        right.plot(
            severities,
            [np.mean([100 * row["error"] for row in table.rows if row["severity"] == each]) for each in severities],
            f"{marker}-",
            color=colour,
            ms=5,
            label=table.label,
        )
    left.set_yticks(places, [kind.replace("_", " ") for kind in kinds])
    left.invert_yaxis()
    families = [next(row["family"] for row in tables[0].rows if row["kind"] == kind) for kind in kinds]
    for place, (before, after) in enumerate(pairwise(families), start=1):
        if before != after:
            left.axhline(place - 0.5, color="#444444", lw=0.7)
    made = {"generated": "generated here", "published": "published sets"}[tables[0].rows[0]["source"]]
    left.set(xlabel="error (%), mean of 5 severities", title=f"15 corruptions, {made}")
    right.set(xlabel="severity (0: clean)", ylabel="error (%), mean of all kinds", title="all kinds")
    right.legend(fontsize=7)
    return figure


def _hessian(tables: Sequence[Table]) -> Figure:
    figure = Figure(figsize=(6.4, 3.1))
    left, right = figure.subplots(1, 2, sharey=True)
    for table, colour, dash in zip(tables, COLOURS, ("-", "--", "-.", ":", "-", "--"), strict=False):
        values = np.array([row["eigenvalue"] for row in table.rows])
        for axes, side in ((left, values[values < 0]), (right, values[values >= 0])):
            share = len(side) / len(values)
            name = f"{table.label} ({100 * share:.0f} %)"
            if len(side) > 1 and side.std() > 0:
                reach = np.linspace(side.min() - 2 * side.std(), side.max() + 2 * side.std(), 400)
                reach = reach[reach <= 0] if axes is left else reach[reach >= 0]
                axes.plot(reach, share * gaussian_kde(side)(reach), dash, color=colour, label=name)
            axes.plot(side, np.zeros_like(side), "|", color=colour, ms=8, label=None if len(side) > 1 else name)
    lowest = min((row["eigenvalue"] for table in tables for row in table.rows), default=0.0)
    highest = max((row["eigenvalue"] for table in tables for row in table.rows), default=1.0)
    # Where none is negative, the empty side still has a scale that can be read.
    left.set(xlabel="negative eigenvalues", ylabel="density", xlim=(1.3 * min(lowest, -highest / 10, -1e-3), 0))
    left.locator_params(axis="x", nbins=5)
    right.set(xlabel="positive eigenvalues")
    right.set_xlim(left=0)
    for axes in (left, right):
        axes.set_ylim(bottom=0)
        axes.legend(fontsize=7)
    return figure


def _landscape(tables: Sequence[Table]) -> Figure:
    figure = Figure(figsize=(4.8 * len(tables), 7.8))
    for number, table in enumerate(tables):
        xs, ys = (sorted({row[axis] for row in table.rows}) for axis in "xy")
        values = np.full((len(ys), len(xs)), nan)
        for row in table.rows:
            values[ys.index(row["y"]), xs.index(row["x"])] = nan if row["nll"] is None else row["nll"]
        values = values - np.nanmin(values)
        values[values > HIDDEN_ABOVE] = nan
        surface: Any = figure.add_subplot(2, len(tables), number + 1, projection="3d")
        surface.plot_surface(*np.meshgrid(xs, ys), values, cmap="viridis", lw=0, antialiased=True)
        surface.set(xlabel="direction 1", ylabel="direction 2", zlabel="NLL above its minimum", title=table.label)
        surface.set_box_aspect(None, zoom=0.85)  # or the label of the third axis is cut off
        flat = figure.add_subplot(2, len(tables), len(tables) + number + 1)
        lines = flat.contour(xs, ys, values, levels=10, cmap="viridis", linewidths=1.1)
        flat.clabel(lines, list(lines.levels)[::2], fontsize=7)
        flat.plot(0, 0, "+", color="black")
        flat.set(xlabel="multiple of direction 1", ylabel="multiple of direction 2", aspect="equal")
    return figure


def _calibration(tables: Sequence[Table]) -> Figure:
    figure, panels = _panels(tables, 3.4, 2.2, rows=2)
    for number, table in enumerate(tables):
        above, below = panels[0][number], panels[1][number]
        held = [row for row in table.rows if row["images"]]
        ece = table.rows[0]["ece"]
        above.plot([0, 1], [0, 1], color="#777777", lw=1, ls="--", label="perfect")
        confidences, accuracies = ([row[name] for row in held] for name in ("confidence", "accuracy"))
        above.plot(confidences, accuracies, "o-", color=BLUE, ms=4, label=f"ECE {ece:.3f}")
        above.set(ylabel="accuracy", title=table.label, xlim=(0, 1), ylim=(0, 1.04))
        above.legend(fontsize=7)
        images = sum(row["images"] for row in table.rows)
        middles = [(row["low"] + row["high"]) / 2 for row in table.rows]
        below.bar(middles, [row["images"] / images for row in table.rows], width=0.09, color=SKY, edgecolor=BLUE)
        below.set(xlabel="confidence", ylabel="share of images", xlim=(0, 1))
    return figure


def _ensemble(tables: Sequence[Table]) -> Figure:
    figure = Figure(figsize=(9.6, 2.9))
    panels: Any = figure.subplots(1, 3)
    most = max(table.rows[-1]["passes"] for table in tables)
    for axes, name, label in zip(panels, ("points", "nll", "ece"), ("accuracy (%)", "NLL", "ECE"), strict=True):
        for table, colour, marker in zip(tables, COLOURS, "os^Dv<", strict=False):
            once, *averaged = table.rows
            axes.axhline(once[name], color=colour, ls="--", lw=1, label=f"{table.label}, all kept")
            if averaged:
                passes = [row["passes"] for row in averaged]
                values = [row[name] for row in averaged]
                axes.plot(passes, values, f"{marker}-", color=colour, ms=3, label=f"{table.label}, dropped")
        axes.set(xlabel="passes averaged", ylabel=label, xscale="log", xlim=(0.9, 1.15 * max(2, most)))
        # Plain numbers in place of powers of ten.
        axes.xaxis.set_major_formatter("{x:.0f}")
        axes.xaxis.set_minor_formatter("")
    panels[0].legend(fontsize=7)
    return figure


_FIGURES: dict[str, Callable[[Sequence[Table]], Figure]] = {
    "hessian": _hessian,
    "landscape": _landscape,
    "fourier": _fourier,
    "variance": _variance,
    "lesion": _lesion,
    "cka": _cka,
    "noise": _noise,
    "corruption": _corruption,
    "calibration": _calibration,
    "ensemble": _ensemble,
}
