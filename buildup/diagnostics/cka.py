"""How alike what two units know of images is (paper.md 8.6): minibatch linear CKA by the unbiased estimate of HSIC.

A unit is kept as the products of its outputs for the images of one batch, so memory grows with units times the square
of the batch, whatever the size of the outputs.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from math import nan
from statistics import fmean

import numpy as np
import torch
from torch import Tensor, nn

from buildup.diagnostics.analysis import Measurement, Subject
from buildup.diagnostics.figures import Figure, Row, Rows, Table, panels_of
from buildup.diagnostics.hooks import evaluating
from buildup.diagnostics.observe import watching
from buildup.diagnostics.units import Unit
from buildup.errors import DataError

LEAST_IMAGES = 4
"""The unbiased estimate divides by n - 3."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Similarity:
    """The CKA of each unit of one model with each unit of another, or of the same."""

    values: tuple[tuple[float, ...], ...]
    """A row a unit of the first. An estimate: it may be a bit below 0 or above 1, and is nan for constant outputs."""
    images: int
    batch_size: int
    """The estimate does not depend on it; its noise does."""


def gram(outputs: Tensor) -> Tensor:
    """The products of each image's flattened output with each other's."""
    rows = outputs.detach().flatten(1)
    rows = rows.float() if rows.device.type == "mps" else rows.double()
    return rows @ rows.T


def hsic(first: Tensor, second: Tensor) -> Tensor:
    """The unbiased estimate of HSIC for each pair of two stacks of Gram matrices (units x images x images)."""
    images = first.shape[-1]
    if images < LEAST_IMAGES:
        raise DataError(f"CKA needs at least {LEAST_IMAGES} images a batch, not {images}.")
    one, other = _hollow(first), _hollow(second)
    one_rows, other_rows = one.sum(2), other.sum(2)
    traces = one.flatten(1) @ other.flatten(1).T
    totals = one_rows.sum(1)[:, None] * other_rows.sum(1) / ((images - 1) * (images - 2))
    crossed = 2 / (images - 2) * one_rows @ other_rows.T
    return (traces + totals - crossed) / (images * (images - 3))


def cka(
    model: nn.Module,
    units: Sequence[Unit],
    batches: Iterable[Tensor],
    *,
    other: tuple[nn.Module, Sequence[Unit]] | None = None,
) -> Similarity:
    """The similarity of all pairs of units, over images in batches of at least 4.

    Terms are summed over batches before they are divided; a mean of each batch's CKA would be biased. A last batch of
    fewer than 4 images is left out.

    Args:
        model: whose units are the rows.
        units: of it.
        batches: Images as the models take them.
        other: Whose units are the columns; the same where left out.
    """
    images, largest = 0, 0
    sums: list[Tensor] = []
    for batch in batches:
        if len(batch) < LEAST_IMAGES:
            continue
        one = grams(model, units, batch)
        two = grams(*other, batch) if other else one
        terms = [len(batch) * term for term in (hsic(one, two), _own(one), _own(two))]
        sums = [total + term for total, term in zip(sums, terms, strict=True)] if sums else terms
        images, largest = images + len(batch), max(largest, len(batch))
    if not sums:
        raise DataError(f"CKA needs a batch of at least {LEAST_IMAGES} images, and there is none.")
    cross, own, others = sums
    values = cross / (own.sqrt()[:, None] * others.sqrt())
    return Similarity(values=tuple(map(tuple, values.tolist())), images=images, batch_size=largest)


def grams(model: nn.Module, units: Sequence[Unit], images: Tensor) -> Tensor:
    """The Gram matrix of each unit for a batch, in evaluation mode."""
    found: dict[int, Tensor] = {}

    def see(unit: Unit, output: Tensor) -> None:
        found[unit.index] = gram(output)

    with torch.no_grad(), evaluating(model), watching(model, units, see):
        model(images)
    return torch.stack([found[unit.index] for unit in units])


class UnitSimilarity(Measurement):
    """The CKA of all pairs of units of a model."""

    name = "cka"
    title = "Likeness of units"
    words = (
        "Unbiased minibatch CKA of what each two units know of the same images. Blocks along the diagonal are stages "
        "that work for themselves."
    )
    needs_labels = False

    def measure(self, subject: Subject, done: Rows) -> Iterator[Rows]:
        """One row a pair of units."""
        found = cka(subject.model, subject.units, subject.batches())
        yield [
            {"unit": one.index, "other": other.index, "cka": value}
            for one, values in zip(subject.units, found.values, strict=True)
            for other, value in zip(subject.units, values, strict=True)
        ]

    def summary(self, rows: Rows) -> Row:
        """The mean over pairs of different units."""
        return {"mean": fmean(row["cka"] for row in rows if row["unit"] != row["other"])}

    def figure(self, tables: Sequence[Table]) -> Figure:
        figure, panels = panels_of(tables, 4.4, 3.9)
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


CKA = UnitSimilarity()


def _own(matrices: Tensor) -> Tensor:
    """The HSIC of each with itself."""
    return torch.stack([hsic(matrix[None], matrix[None])[0, 0] for matrix in matrices])


def _hollow(matrices: Tensor) -> Tensor:
    """The same with zeros on the diagonals."""
    return matrices - torch.diag_embed(matrices.diagonal(dim1=-2, dim2=-1))
