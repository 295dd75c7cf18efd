"""Shared parts of the figures. Only this module imports matplotlib.

Colours are those of Okabe and Ito, which remain distinct in the common forms of colour blindness. Markers differ too.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes as Axes
from matplotlib.figure import Figure as Figure

Row = dict[str, Any]
Rows = Sequence[Row]

BLUE, ORANGE, GREEN, PURPLE, SKY, BLACK = "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#000000"
COLOURS = (BLUE, ORANGE, GREEN, PURPLE, SKY, BLACK)
MARKERS = {
    "conv": "o",
    "msa": "s",
    "mlp": "^",
    "smoothing": "D",
    "other": "x",
    "stem": ".",
    "subsampling": "v",
    "head": ".",
}
NAMES = {
    "conv": "Conv",
    "msa": "MSA",
    "mlp": "MLP",
    "smoothing": "smoothing",
    "other": "other",
    "subsampling": "subsampling",
}
SHAPES = "os^Dv<"
"""Markers of models that are drawn into one panel."""
LOOKS = tuple((colour, SHAPES[(place + turn) % 6]) for turn in range(6) for place, colour in enumerate(COLOURS))
"""Colour and marker of up to 36 models in one panel."""

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
    series: str = ""
    """The training whose phases are measured."""
    epoch: int | None = None
    """The epoch after which the weights are; None for what was not trained here."""

    def depth(self, unit: float) -> float:
        """Normalised: 0 for the first unit, 1 for the last."""
        return unit / max(1, len(self.units) - 1)


def draw_figure(figure: Callable[[Sequence[Table]], Figure], tables: Sequence[Table]) -> Figure:
    with mpl.rc_context(STYLE):
        return figure(tables)


def panels_of(tables: Sequence[Table], width: float, height: float, rows: int = 1, **how: Any) -> tuple[Figure, Any]:
    figure = Figure(figsize=(width * len(tables), height * rows))
    return figure, figure.subplots(rows, len(tables), squeeze=False, **how)


def depth_figure(tables: Sequence[Table], column: str, label: str) -> Figure:
    figure, panels = panels_of(tables, 4.6, 3.1)
    for axes, table in zip(panels[0], tables, strict=True):
        plot_depth(axes, table, column, table.rows, label)
    return figure


def plot_depth(axes: Axes, table: Table, column: str, rows: Rows, label: str) -> None:
    shade(axes, table)
    axes.plot(
        [table.depth(row["unit"]) for row in rows], [row[column] for row in rows], color="#777777", lw=1, zorder=2
    )
    for kind in dict.fromkeys(row["kind"] for row in rows):
        own = [row for row in rows if row["kind"] == kind]
        colour = ORANGE if kind == "msa" else BLUE if kind == "conv" else GREEN
        axes.plot(
            [table.depth(row["unit"]) for row in own],
            [row[column] for row in own],
            MARKERS[kind],
            color=colour if kind in NAMES else "#555555",
            ms=5,
            label=NAMES.get(kind, kind),
            zorder=3,
        )
    axes.set(xlabel="normalised depth", ylabel=label, title=table.label, xlim=(-0.02, 1.02))
    axes.legend(fontsize=7, framealpha=0.9)


def looks_of(tables: Sequence[Table]) -> list[tuple[Table, str, str]]:
    """Models with a colour and a marker each; beyond 36 of them, these repeat."""
    return [(table, *look) for table, look in zip(tables, cycle(LOOKS), strict=False)]


def plot_points(axes: Axes, points: Mapping[str, tuple[float, float]], across: str, up: str) -> None:
    for (label, (x, y)), (colour, marker) in zip(points.items(), cycle(LOOKS), strict=False):
        axes.plot([x], [y], marker, color=colour, ms=6, label=label)
    axes.margins(0.12)
    axes.set(xlabel=across, ylabel=up)
    axes.legend(fontsize=6, ncols=1 + len(points) // 12)


def shade(axes: Axes, table: Table) -> None:
    label: str | None = "subsampling"
    for unit in table.units:
        place = table.depth(unit["unit"])
        if unit["kind"] == "msa":
            axes.axvspan(table.depth(unit["unit"] - 1), place, color=ORANGE, alpha=0.13, lw=0, zorder=0)
        if unit["subsamples"]:
            axes.axvline(place, color="#444444", ls=(0, (3, 3)), lw=0.9, zorder=1, label=label)
            label = None  # one line in the legend stands for all


def depth_colours(figure: Figure, axes: Axes, count: int) -> Any:
    """One colour per unit by depth, with a colour bar beside the panel."""
    scale = mpl.cm.ScalarMappable(mpl.colors.Normalize(0, 1), "viridis")
    figure.colorbar(scale, ax=axes, label="normalised depth")
    return mpl.colormaps["viridis"](np.linspace(0, 0.92, max(1, count)))
