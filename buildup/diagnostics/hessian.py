"""The curvature of the training loss: the largest eigenvalues of the Hessian of each batch.

The loss of a batch is the mean cross-entropy with the soft targets of augmentation, plus decay / 2 times the squared
norm of all weights. Batch norms use their running statistics, as in PyHessian; otherwise the images of a batch would
not be independent. All products of a batch use the same augmented images.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import islice
from math import nan
from statistics import fmean
from typing import Any

import numpy as np
import torch
from scipy.stats import gaussian_kde
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode

from buildup.diagnostics.analysis import Batch, Measurement, PaperClaim, Sizes, Subject
from buildup.diagnostics.figures import COLOURS, SHAPES, Axes, Figure, Row, Rows, Table
from buildup.errors import DataError
from buildup.models.trace import evaluation_mode
from buildup.training.dataset import Dataset
from buildup.training.execution import ieee_float32
from buildup.training.feed import Feed
from buildup.training.recipe import Recipe

BATCH = 16
TOP = 5
TWICE: dict[str, Callable[[Tensor], Tensor]] = {
    "hardsigmoid": lambda x: F.relu6(x + 3) / 6,
    "hardswish": lambda x: x * F.relu6(x + 3) / 6,
}
"""Functions that torch can differentiate only once, in terms of functions with second derivatives."""
DASHES = ("-", "--", "-.", ":")
BREAKDOWN = 1e-10
"""The basis is invariant when the rest of a vector is below this share of the operator's norm."""


Product = Callable[[Tensor], Tensor]
"""The product of a symmetric operator with a vector."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExtremeEigenvalues:
    """The eigenvalues of largest magnitude of an operator."""

    values: tuple[float, ...]
    """Signed, by falling magnitude."""
    residuals: tuple[float, ...]
    """||Av - av|| for each, with ||v|| = 1. An eigenvalue lies within this distance of a."""
    products: int
    converged: bool
    """Whether each residual is within the tolerance."""


def extreme_eigenvalues(
    product: Product,
    start: Tensor,
    count: int,
    *,
    tolerance: float = 1e-3,
    most_products: int = 200,
    basis_size: int = 40,
) -> ExtremeEigenvalues:
    """The `count` eigenvalues of largest magnitude of a symmetric operator, by Lanczos with full re-orthogonalisation.

    It finds both ends of the spectrum at once, with a residual for each value. A value that occurs several times is
    found once. When a and -a nearly tie, a power iteration that stops at small changes returns a value in between. A
    restart keeps the best half of the basis, which bounds memory.

    Args:
        product: Returns the product of the operator with a vector, of the same type and device.
        start: A random vector. An eigenvector orthogonal to it is never found.
        count: How many. A smaller operator has fewer.
        tolerance: The largest residual, as a share of the largest eigenvalue's magnitude.
        most_products: The most products. After these the search ends without convergence.
        basis_size: The most vectors that are kept.
    """
    size = start.numel()
    count, basis_size = min(count, size), min(max(basis_size, 2 * count + 2), size)
    basis = start.new_zeros(basis_size + 1, size)
    basis[0] = start / start.norm()
    projected = torch.zeros(basis_size, basis_size, dtype=torch.float64)
    filled, products = 0, 0
    while True:
        remainder = _expand(product, basis, projected, filled)
        filled, products = filled + 1, products + 1
        norm = remainder.norm().item()
        values, vectors = torch.linalg.eigh(projected[:filled, :filled])
        order = values.abs().argsort(descending=True)
        values, vectors = values[order], vectors[:, order]
        largest = values[0].abs().item()
        is_invariant = filled == size or norm <= BREAKDOWN * largest
        residuals = (0.0 if filled == size else norm) * vectors[-1, :count].abs()
        converged = filled >= count and bool((residuals <= tolerance * largest).all())
        if converged or is_invariant or products == most_products:
            return ExtremeEigenvalues(
                values=tuple(values[:count].tolist()),
                residuals=tuple(residuals.tolist()),
                products=products,
                converged=converged or is_invariant,
            )
        basis[filled] = remainder / norm
        if filled == basis_size:
            filled = max(count + 1, basis_size // 2)
            _restart(basis, projected, values[:filled], vectors[:, :filled])


def _expand(product: Product, basis: Tensor, projected: Tensor, last: int) -> Tensor:
    """Add the product with the last vector to the projected operator; return its part outside the basis."""
    image = product(basis[last])
    known = basis[: last + 1]
    # A second orthogonalisation removes the rounding error that the first one leaves.
    along = known @ image
    image = image - along @ known
    again = known @ image
    image = image - again @ known
    column = (along + again).double().cpu()
    projected[: last + 1, last] = column
    projected[last, : last + 1] = column
    return image


def _restart(basis: Tensor, projected: Tensor, values: Tensor, vectors: Tensor) -> None:
    """Replace the basis by some of its Ritz vectors and the newest vector. The next product finds their coupling."""
    filled, kept = vectors.shape
    newest = basis[filled].clone()
    basis[:kept] = vectors.T.to(basis) @ basis[:filled]
    basis[kept] = newest
    projected.zero_()
    projected[:kept, :kept] = values.diag()


def nep(values: Sequence[float]) -> float:
    """The negative eigenvalue proportion: 0 where the loss is convex."""
    return fmean(value < 0 for value in values)


def ape(values: Sequence[float]) -> float | None:
    """The average of the positive eigenvalues: lower is flatter. None without positive ones."""
    positive = [value for value in values if value > 0]
    return fmean(positive) if positive else None


def batch_eigenvalues(
    model: nn.Module,
    batches: Iterable[Batch],
    *,
    weight_decay: float = 0.0,
    count: int = TOP,
    tolerance: float = 1e-3,
    most_products: int = 200,
    seed: int = 0,
) -> Iterator[ExtremeEigenvalues]:
    """The eigenvalues of largest magnitude of the Hessian of each batch over all weights.

    The model runs in evaluation mode; its weights and their gradients stay as they are. The weight decay is added to
    each eigenvalue. The seed is that of the start vector, which is the same for every batch. Tolerance and number of
    products are those of `extreme_eigenvalues`, for each batch.
    """
    for inputs, targets in batches:
        with hessian_products(model, inputs, targets, weight_decay) as (product, size):
            device = inputs.device
            generator = torch.Generator().manual_seed(seed)
            start = torch.randn(size, generator=generator, dtype=torch.float64).to(device, inputs.dtype)
            found = extreme_eigenvalues(product, start, count, tolerance=tolerance, most_products=most_products)
        yield found  # outside, since the caller must not compute in these modes


class _DifferentiableTwice(TorchFunctionMode):
    """Replaces the functions in `TWICE`. Values are equal up to rounding."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        plain = TWICE.get(getattr(func, "__name__", "").removesuffix("_"))
        return plain(args[0]) if plain else func(*args, **(kwargs or {}))


@contextmanager
def hessian_products(
    model: nn.Module, inputs: Tensor, targets: Tensor, weight_decay: float = 0.0
) -> Iterator[tuple[Product, int]]:
    """The product with the Hessian of one batch, and the size of the vectors.

    The gradient and its graph are computed once. A product then costs about two backward passes.
    """
    # Detached views of the same memory leave `requires_grad` and `grad` of the model's weights as they are.
    weights = {name: weight.detach().requires_grad_() for name, weight in model.named_parameters()}
    sizes = [weight.numel() for weight in weights.values()]
    # torch's fused attention has no second derivatives.
    with (
        torch.enable_grad(),
        evaluation_mode(model),
        sdpa_kernel(SDPBackend.MATH),
        _DifferentiableTwice(),
        # TF32 moves eigenvalues by more than their residuals.
        ieee_float32(inputs.device),
    ):
        logits = functional_call(model, weights, (inputs,))
        loss = F.cross_entropy(logits, targets)
        if not torch.isfinite(loss):
            raise DataError(f"The loss of a batch is {loss.item()}: are weights or images not numbers?")
        gradients = torch.autograd.grad(
            loss, list(weights.values()), create_graph=True, allow_unused=True, materialize_grads=True
        )
        used = [index for index, gradient in enumerate(gradients) if gradient.requires_grad]

        def product(vector: Tensor) -> Tensor:
            parts = [
                part.view_as(weight) for part, weight in zip(torch.split(vector, sizes), weights.values(), strict=True)
            ]
            try:
                found = torch.autograd.grad(
                    [gradients[index] for index in used],
                    list(weights.values()),
                    [parts[index] for index in used],
                    retain_graph=True,
                    allow_unused=True,
                    materialize_grads=True,
                )
            except RuntimeError as error:
                if "derivative for" not in str(error):
                    raise
                message = f"{type(model).__name__} has a function that torch can't differentiate twice: {error}"
                raise DataError(f"{message}. Its Hessian can't be measured.") from None
            return torch.cat([part.flatten() for part in found]) + weight_decay * vector

        yield product, sum(sizes)


def augmented_batches(
    dataset: Dataset, recipe: Recipe, train: Tensor, *, seed: int, device: torch.device, count: int
) -> tuple[Batch, ...]:
    """The first `count` batches of 16 images of an epoch, as a recipe trains on the images of these indices."""
    feed = Feed(
        recipe=replace(recipe, batch_size=BATCH), dataset=dataset, train=train, val=train[:0], seed=seed, device=device
    )
    return tuple(islice(feed.epoch(1), count))


class HessianSpectrum(Measurement):
    """The largest eigenvalues of each batch's Hessian. One row per eigenvalue of a batch."""

    name = "hessian"
    title = "Curvature of the loss"
    caption = (
        "The five largest eigenvalues, by magnitude, of the Hessian of each batch. Smaller positive eigenvalues mean a "
        "flatter loss, negative ones a loss that is not convex. nep: share below zero; ape: mean of those above zero. "
        "With several phases of a training, the last row shows both over its epochs."
    )

    claims = (
        PaperClaim(column="ape", words="the mean of the positive eigenvalues", sign=-1),
        PaperClaim(column="nep", words="the share of negative eigenvalues", sign=1),
    )

    def train_batches(self, sizes: Sizes) -> int:
        return sizes.hessian_batches

    def work(self, subject: Subject) -> tuple[int, int]:
        return min(subject.sizes.hessian_batches, len(subject.train_batches)), 0

    def measure(self, subject: Subject, done: Rows) -> Iterator[Rows]:
        first = 1 + max((row["batch"] for row in done), default=-1)
        left = subject.train_batches[first : subject.sizes.hessian_batches]
        found = batch_eigenvalues(subject.model, left, weight_decay=subject.weight_decay, seed=subject.seed)
        for number, batch in enumerate(found, start=first):
            how = {"products": batch.products, "converged": batch.converged}
            yield [
                {"batch": number, "rank": rank, "eigenvalue": value, "residual": residual, **how}
                for rank, (value, residual) in enumerate(zip(batch.values, batch.residuals, strict=True))
            ]

    def summary(self, rows: Rows) -> Row:
        values = [row["eigenvalue"] for row in rows]
        return {
            "nep": nep(values),
            "ape": ape(values),
            "batches": len({row["batch"] for row in rows}),
            "converged": all(row["converged"] for row in rows),
        }

    def figure(self, tables: Sequence[Table]) -> Figure:
        groups, phases = _groups(tables)
        figure = Figure(figsize=(6.4, 3.1 * (len(groups) + bool(phases))))
        panels = figure.subplots(len(groups) + bool(phases), 2, squeeze=False)
        for (left, right), group in zip(panels, groups, strict=False):
            left.sharey(right)
            # A training has one look in all rows, also where others lack a phase.
            looks = [[*phases].index(table.series) for table in group] if len(groups) > 1 else range(len(group))
            _draw_spectra(left, right, group, looks)
            values = [row["eigenvalue"] for table in group for row in table.rows]
            lowest, highest = min(values), max(values)
            # Without negative values the empty side still has a readable scale.
            left.set(ylabel="density", xlim=(1.3 * min(lowest, -highest / 10, -1e-3), 0), xlabel="negative eigenvalues")
            left.locator_params(axis="x", nbins=5)
            right.set(xlabel="positive eigenvalues")
        if phases:
            _draw_phases(panels[-1][0], panels[-1][1], phases)
        return figure


def _groups(tables: Sequence[Table]) -> tuple[list[Sequence[Table]], dict[str, list[Table]]]:
    """The tables of each row of spectra, and those of each training where one has several phases.

    Trainings are compared at each epoch; the phases of a single one are drawn into one row.
    """
    series: dict[str, list[Table]] = {}
    for table in tables:
        if table.epoch is not None:
            series.setdefault(table.series, []).append(table)
    phases = {name: sorted(own, key=_epoch) for name, own in series.items()}
    if not any(len(own) > 1 for own in phases.values()):
        return [tables], {}
    if len(phases) == 1 or any(table.epoch is None for table in tables):
        return [tables], phases
    epochs = sorted({_epoch(table) for table in tables})
    return [[table for table in tables if _epoch(table) == epoch] for epoch in epochs], phases


def _epoch(table: Table) -> int:
    return -1 if table.epoch is None else table.epoch


def _draw_spectra(left: Axes, right: Axes, tables: Sequence[Table], looks: Sequence[int]) -> None:
    """The densities of the negative and of the positive eigenvalues; each of `looks` chooses the style of a table."""
    for table, look in zip(tables, looks, strict=True):
        colour, dash = COLOURS[look % len(COLOURS)], DASHES[look % len(DASHES)]
        values = np.array([row["eigenvalue"] for row in table.rows])
        for axes, side in ((left, values[values < 0]), (right, values[values >= 0])):
            share = len(side) / len(values)
            name = f"{table.label} ({100 * share:.0f} %)"
            if len(side) > 1 and side.std() > 0:
                reach = np.linspace(side.min() - 2 * side.std(), side.max() + 2 * side.std(), 400)
                reach = reach[reach <= 0] if axes is left else reach[reach >= 0]
                axes.plot(reach, share * gaussian_kde(side)(reach), dash, color=colour, label=name)
            axes.plot(side, np.zeros_like(side), "|", color=colour, ms=8, label=None if len(side) > 1 else name)
    right.set_xlim(left=0)
    for axes in (left, right):
        axes.set_ylim(bottom=0)
        axes.legend(fontsize=7)


def _draw_phases(left: Axes, right: Axes, phases: Mapping[str, Sequence[Table]]) -> None:
    for look, (name, tables) in enumerate(phases.items()):
        how: Any = {"color": COLOURS[look % len(COLOURS)], "ms": 5, "label": name, "clip_on": False}
        line = f"{SHAPES[look % len(SHAPES)]}-"
        epochs = [_epoch(table) for table in tables]
        values = [[row["eigenvalue"] for row in table.rows] for table in tables]
        left.plot(epochs, [100 * nep(one) for one in values], line, **how)
        means = [nan if (mean := ape(one)) is None else mean for one in values]
        right.plot(epochs, means, line, **how)
    left.set(xlabel="epoch", ylabel="NEP: negative eigenvalues (%)")
    right.set(xlabel="epoch", ylabel="APE: mean of the positive ones")
    for axes in (left, right):
        axes.set_ylim(bottom=0)
        axes.legend(fontsize=7)
