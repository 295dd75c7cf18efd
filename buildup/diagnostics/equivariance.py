"""Translation equivariance of a unit: its output for shifted maps, compared with its shifted output.

The maps that a unit receives are shifted by s pixels down and to the right, round the border. What its branch then adds
is compared with what it added before, shifted alike:

    error = |f(shift x) - shift f(x)| / |shift f(x) - its mean over space|

0 means that the branch moves with its input; 1 that the error is as large as what varies over space. The shortcut is
always equivariant and left out. Only pixels are compared that neither the padding of a convolution or pooling nor the
seam of the shift can reach. So a convolution without stride has no error, nor has attention over the whole map without
positions. Attention inside windows has none for shifts by whole windows. In a branch with both a padded convolution and
attention, attention carries the effect of the padding further, and the error includes that.
"""

from collections.abc import Iterator, Sequence
from contextlib import suppress
from itertools import groupby, pairwise
from operator import itemgetter
from statistics import fmean
from typing import Any

import torch
from torch import Tensor, nn

from buildup.diagnostics.analysis import Measurement, Subject, unit_columns
from buildup.diagnostics.figures import COLOURS, MARKERS, NAMES, Figure, Row, Rows, Table, panels_of, plot_depth
from buildup.diagnostics.hooks import intercept
from buildup.diagnostics.units import Unit
from buildup.models.layers import ConvAttention2d, GatedAttention2d, Smoothing2d
from buildup.models.trace import evaluation_mode
from buildup.models.zoo import NearAttention
from buildup.training.augmentation import normalise

SHIFTS = tuple(range(1, 9))
"""Pixels; the usual windows have sides of 4, 7 and 8."""


def border_of(model: nn.Module, unit: Unit) -> int:
    """How many pixels from the border of its maps the padding inside a unit can change its output."""
    modules = dict(model.named_modules())
    convs = [modules[path] for path in unit.convs]
    radii = [
        max(dilation * (kernel // 2) for dilation, kernel in zip(conv.dilation, conv.kernel_size, strict=True))
        for conv in convs
        if isinstance(conv, nn.Conv2d)
    ]
    inside = modules[unit.name].modules() if unit.name in modules else ()
    near = ConvAttention2d | GatedAttention2d | NearAttention | Smoothing2d
    for module in inside:
        if isinstance(module, near):
            radii.append(module.kernel // 2 * getattr(module, "dilation", 1))
        elif isinstance(module, nn.AvgPool2d | nn.MaxPool2d) and module.padding:
            sides = module.kernel_size if isinstance(module.kernel_size, tuple) else (module.kernel_size,)
            radii.append(max(sides) // 2)
    return sum(radii)


def shift_maps(unit: Unit, output: Tensor, shift: int) -> Tensor:
    """The output of a unit with its maps shifted down and to the right, round the border. Class tokens stay."""
    shifted = output.clone()
    maps = unit.as_map(shifted)  # a view
    assert maps is not None
    maps.copy_(maps.roll((shift, shift), (2, 3)))
    return shifted


def equivariance_error(before: Tensor, after: Tensor, shift: int, border: int) -> float | None:
    """The error of maps after a shift; None if no pixel is free of borders, or if the maps do not vary there.

    Args:
        before: Maps (images x channels x height x width) of the input as it was.
        after: Maps of the shifted input.
        shift: Pixels down and to the right.
        border: Pixels that padding can reach.
    """
    height, width = before.shape[2:]
    rows, columns = slice(shift + border, height - border), slice(shift + border, width - border)
    # Without a border, a shift round the border has no seam.
    inside = (slice(None), slice(None)) if border == 0 else (rows, columns)
    expected = before.roll((shift, shift), (2, 3))[:, :, *inside].double()
    found = after[:, :, *inside].double()
    if not expected.numel():
        return None
    varying = (expected - expected.mean((2, 3), keepdim=True)).square().sum().sqrt().item()
    error = (found - expected).square().sum().sqrt().item()
    return error / varying if varying > 1e-9 * expected.square().sum().sqrt().item() else None


def measure_equivariance(model: nn.Module, before: Unit, unit: Unit, images: Tensor) -> dict[int, float]:
    """The error of a unit by shift, without shifts for which its maps are too small.

    Args:
        model: The model, which stays as it is.
        before: The unit whose output this one reads.
        unit: A unit that keeps the size of its maps.
        images: Normalised images.
    """
    assert unit.size is not None
    border = border_of(model, unit)
    still = _branch(model, before, unit, images, 0)
    errors = {
        shift: equivariance_error(still, _branch(model, before, unit, images, shift), shift, border)
        for shift in SHIFTS
        if shift < min(unit.size)
    }
    return {shift: error for shift, error in errors.items() if error is not None}


def shiftable(units: Sequence[Unit]) -> list[tuple[Unit, Unit]]:
    """The units that keep the size of the maps of the unit before them, with that unit."""
    return [
        (before, unit)
        for before, unit in pairwise(units)
        if unit.size is not None
        and unit.size == before.size
        and min(unit.size) > 1
        and unit.kind not in ("head", "subsampling")
    ]


class Equivariance(Measurement):
    """The equivariance error of each unit for each shift. One row per unit and shift."""

    name = "equivariance"
    title = "Translation equivariance"
    caption = (
        "How much the output of a block differs from the shifted output when its input is shifted; 0 is equivariant, 1 "
        "as large as what varies over space. Attention in windows has no error for shifts by whole windows. Pixels "
        "near padding are not compared, and maps that are too small for that are left out."
    )
    needs_labels = False

    def obstacle(self, subject: Subject) -> str | None:
        if shiftable(subject.units):
            return None
        return (
            f"{subject.label} has no block with maps of the size of those before it, which equivariance needs. Larger "
            "images have larger maps (--image-size)."
        )

    def work(self, subject: Subject) -> tuple[int, int]:
        return len(shiftable(subject.units)), len(subject.spread(subject.sizes.batch_size).labels) * (1 + len(SHIFTS))

    def measure(self, subject: Subject, done: Rows) -> Iterator[Rows]:
        finished = {row["unit"] for row in done}
        data = subject.spread(subject.sizes.batch_size)
        images = normalise(data.images, data.mean, data.std).to(subject.device)
        for before, unit in shiftable(subject.units):
            if unit.index not in finished:
                found = measure_equivariance(subject.model, before, unit, images)
                yield [{**unit_columns(unit), "shift": shift, "error": error} for shift, error in found.items()]

    def summary(self, rows: Rows) -> Row:
        kinds = sorted({row["kind"] for row in rows})
        return {f"error_{kind}": fmean(row["error"] for row in rows if row["kind"] == kind) for kind in kinds}

    def figure(self, tables: Sequence[Table]) -> Figure:
        figure, panels = panels_of(tables, 4.6, 3.1, rows=2, sharey="row")
        for number, table in enumerate(tables):
            _plot_shifts(panels[0][number], table)
            units = [list(rows) for _, rows in groupby(table.rows, key=itemgetter("unit"))]
            means = [{**rows[0], "error": fmean(row["error"] for row in rows)} for rows in units]
            plot_depth(panels[1][number], table, "error", means, "error, mean over shifts")
        return figure


def _plot_shifts(axes: Any, table: Table) -> None:
    sizes = {unit["unit"]: unit["height"] for unit in table.units}
    groups: dict[tuple[str, int], dict[int, list[float]]] = {}
    for row in table.rows:
        groups.setdefault((row["kind"], sizes[row["unit"]]), {}).setdefault(row["shift"], []).append(row["error"])
    for colour, (kind, side) in zip(COLOURS * 3, sorted(groups), strict=False):
        means = {shift: fmean(errors) for shift, errors in sorted(groups[kind, side].items())}
        label = f"{NAMES.get(kind, kind)}, {side} px"
        axes.plot(list(means), list(means.values()), f"{MARKERS[kind]}-", color=colour, ms=4, label=label)
    axes.set(xlabel="shift (pixels)", ylabel="equivariance error", title=table.label, xticks=SHIFTS)
    axes.legend(fontsize=7)


class _SeenError(Exception):
    """Ends a pass through a model."""


def _branch(model: nn.Module, before: Unit, unit: Unit, images: Tensor, shift: int) -> Tensor:
    """What the branch of a unit computes as maps, when the maps that the unit receives are shifted."""
    found: list[Tensor] = []

    def shifted(output: Tensor, _: Any) -> Tensor:
        return shift_maps(before, output, shift)

    def observe(output: Tensor, operands: tuple[Any, ...]) -> None:
        branch = output if unit.join is None else operands[1 - unit.skip]
        found.append(_maps_of(unit, branch.expand_as(output)).clone())
        raise _SeenError  # what follows is not needed

    actions = {before.site: shifted, unit.join or unit.site: observe}
    with suppress(_SeenError), torch.no_grad(), evaluation_mode(model), intercept(model, actions):
        model(images)
    return found[0]


def _maps_of(unit: Unit, branch: Tensor) -> Tensor:
    """The maps of a branch, which may be summed as tokens in a unit that ends with maps."""
    assert unit.size is not None
    if branch.ndim == 3:
        tokens = branch[:, -unit.layout.pixels :].transpose(1, 2)
        return tokens.reshape(*tokens.shape[:2], *unit.size)
    maps = unit.as_map(branch)
    assert maps is not None
    return maps
