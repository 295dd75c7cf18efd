"""Similarity of the representations of units: minibatch linear CKA by the unbiased estimate of HSIC.

Only the Gram matrices of one batch are kept, so memory grows with the number of units times the square of the batch
size and does not depend on the size of the outputs.
"""

from collections.abc import Iterable, Iterator, Sequence
from math import isfinite, nan
from statistics import fmean

import numpy as np
import torch
from torch import Tensor, nn

from buildup.diagnostics.analysis import Measurement, PaperClaim, Subject
from buildup.diagnostics.figures import Figure, Row, Rows, Table, panels_of
from buildup.diagnostics.units import Unit, watch_units
from buildup.errors import DataError

LEAST_BATCH = 4
"""The unbiased estimate divides by n - 3."""


def gram(outputs: Tensor) -> Tensor:
    rows = outputs.flatten(1).double()
    return rows @ rows.T


def hsic(first: Tensor, second: Tensor) -> Tensor:
    """The unbiased estimate of HSIC for each pair of two stacks of Gram matrices (units x images x images)."""
    images = first.shape[-1]
    if images < LEAST_BATCH:
        raise DataError(f"CKA needs at least {LEAST_BATCH} images a batch, not {images}.")
    # The unbiased estimate leaves out the diagonals.
    one, other = (each - torch.diag_embed(each.diagonal(dim1=-2, dim2=-1)) for each in (first, second))
    one_rows, other_rows = one.sum(2), other.sum(2)
    traces = one.flatten(1) @ other.flatten(1).T
    totals = one_rows.sum(1)[:, None] * other_rows.sum(1) / ((images - 1) * (images - 2))
    crossed = 2 / (images - 2) * one_rows @ other_rows.T
    return (traces + totals - crossed) / (images * (images - 3))


def cka(model: nn.Module, units: Sequence[Unit], batches: Iterable[Tensor]) -> Tensor:
    """The similarity of all pairs of units, over images in batches of at least 4.

    Terms are summed over batches before the division, because a mean of the CKA of batches would be biased. A last
    batch of fewer than 4 images is left out. Estimates may be slightly below 0 or above 1; constant outputs give nan.
    """
    total: Tensor | None = None
    for batch in batches:
        if len(batch) >= LEAST_BATCH:
            matrices = grams(model, units, batch)
            term = len(batch) * hsic(matrices, matrices)
            total = term if total is None else total + term
    if total is None:
        raise DataError(f"CKA needs a batch of at least {LEAST_BATCH} images, and there is none.")
    own = total.diag().sqrt()
    return total / (own[:, None] * own)


def grams(model: nn.Module, units: Sequence[Unit], images: Tensor) -> Tensor:
    found: dict[int, Tensor] = {}

    def keep(unit: Unit, output: Tensor) -> None:
        found[unit.index] = gram(output)

    watch_units(model, units, images, keep)
    return torch.stack([found[unit.index] for unit in units])


class UnitSimilarity(Measurement):
    """The CKA of all pairs of units of a model. One row per pair of units."""

    name = "cka"
    title = "Similarity of units"
    caption = (
        "Unbiased minibatch CKA of each pair of units for the same images. Blocks along the diagonal are stages whose "
        "units resemble each other more than those of other stages."
    )
    claims = (
        PaperClaim(
            column="within_minus_across",
            words="units resemble those of their own stage more than others",
            sign=1,
            of_each="units resemble those of other stages as much as those of their own, or more",
        ),
    )
    needs_labels = False

    def measure(self, subject: Subject, done: Rows) -> Iterator[Rows]:
        found = cka(subject.model, subject.units, subject.batches())
        yield [
            {"unit": one.index, "other": other.index, "same_stage": _same_stage(one, other), "cka": value}
            for one, values in zip(subject.units, found.tolist(), strict=True)
            for other, value in zip(subject.units, values, strict=True)
        ]

    def summary(self, rows: Rows) -> Row:
        # A unit with a constant output has none.
        known = [row for row in rows if row["unit"] != row["other"] and row["cka"] is not None and isfinite(row["cka"])]
        pairs = [(row["same_stage"], row["cka"]) for row in known]
        within, across = ([value for same, value in pairs if same is wanted] for wanted in (True, False))
        between = {"within_minus_across": fmean(within) - fmean(across)} if within and across else {}
        return {"mean": fmean(value for _, value in pairs), **between} if pairs else {}

    def figure(self, tables: Sequence[Table]) -> Figure:
        figure, panels = panels_of(tables, 4.4, 3.9)
        for axes, table in zip(panels[0], tables, strict=True):
            side = len(table.units)
            values = np.full((side, side), nan)
            for row in table.rows:
                values[row["unit"], row["other"]] = nan if row["cka"] is None else row["cka"]
            picture = axes.imshow(values, origin="lower", vmin=0, vmax=1, cmap="cividis")
            for unit in table.units:
                if unit["subsamples"]:
                    for line in (axes.axvline, axes.axhline):
                        line(unit["unit"] - 0.5, color="white", lw=0.8, ls=(0, (3, 3)))
            axes.grid(visible=False)
            axes.set(xlabel="unit", ylabel="unit", title=table.label)
            figure.colorbar(picture, ax=axes, label="CKA (minibatch, unbiased)", shrink=0.85)
        return figure


def _same_stage(one: Unit, other: Unit) -> bool | None:
    """None for stem and head, which belong to no stage."""
    if {one.kind, other.kind} & {"stem", "head"}:
        return None
    return one.stage == other.stage
