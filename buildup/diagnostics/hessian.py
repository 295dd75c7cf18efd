"""The curvature of the loss that is really trained on (paper.md 8.1): the largest eigenvalues of each batch's Hessian.

The loss of a batch is the mean cross-entropy with the soft targets that augmentation gives, plus decay / 2 times the
square of all weights. Batch norms use their running statistics, as PyHessian has them: otherwise the images of a batch
would not be apart. Every product of a batch sees the same augmented images.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
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

from buildup.diagnostics.analysis import Batch, Measurement, Sizes, Subject
from buildup.diagnostics.figures import COLOURS, Figure, Row, Rows, Table
from buildup.diagnostics.hooks import evaluating
from buildup.diagnostics.lanczos import Extremes, Product, extremes
from buildup.errors import DataError
from buildup.training.dataset import Dataset
from buildup.training.feed import Feed
from buildup.training.recipe import Recipe

BATCH = 16
TOP = 5
TWICE: dict[str, Callable[[Tensor], Tensor]] = {
    "hardsigmoid": lambda x: F.relu6(x + 3) / 6,
    "hardswish": lambda x: x * F.relu6(x + 3) / 6,
}
"""What torch differentiates once only, as what it differentiates twice: the activations of MobileNetV3 and its kin."""


def nep(values: Sequence[float]) -> float:
    """The share of negative eigenvalues: 0 where the loss is convex."""
    return fmean(value < 0 for value in values)


def ape(values: Sequence[float]) -> float | None:
    """The mean of the positive eigenvalues: lower is flatter. None where there are none."""
    positive = [value for value in values if value > 0]
    return fmean(positive) if positive else None


def hessian(
    model: nn.Module,
    batches: Iterable[Batch],
    *,
    weight_decay: float = 0.0,
    count: int = TOP,
    tolerance: float = 1e-3,
    most_products: int = 200,
    seed: int = 0,
) -> Iterator[Extremes]:
    """The eigenvalues of largest magnitude of each batch's Hessian over all weights that are trained.

    Args:
        model: It runs in evaluation mode, with its own weights; they stay as they are, and so do their gradients.
        batches: Each is used for all products of its own.
        weight_decay: Moves every eigenvalue up by just this.
        count: How many of each batch.
        tolerance: Of residuals, as a share of the batch's largest eigenvalue.
        most_products: With the Hessian, for each batch.
        seed: Of the vectors that the search starts from, the same for every batch.
    """
    for inputs, targets in batches:
        with products(model, inputs, targets, weight_decay) as (product, size):
            device = inputs.device
            generator = torch.Generator().manual_seed(seed)
            start = torch.randn(size, generator=generator, dtype=torch.float64).to(device, inputs.dtype)
            yield extremes(product, start, count, tolerance=tolerance, most_products=most_products)


class _DifferentiableTwice(TorchFunctionMode):
    """Writes some functions in others that have second derivatives; values are the same up to rounding."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """What torch calls in place of each of its functions."""
        plain = TWICE.get(getattr(func, "__name__", "").removesuffix("_"))
        return plain(args[0]) if plain else func(*args, **(kwargs or {}))


@contextmanager
def products(
    model: nn.Module, inputs: Tensor, targets: Tensor, weight_decay: float = 0.0
) -> Iterator[tuple[Product, int]]:
    """Products of vectors with the Hessian of one batch, and the size of such vectors.

    The gradient and what is needed to differentiate it are computed once. A product then costs about two backward runs.
    """
    # The same memory under new names: neither `requires_grad` nor `grad` of the model's own weights is touched.
    weights = {name: weight.detach().requires_grad_() for name, weight in model.named_parameters()}
    sizes = [weight.numel() for weight in weights.values()]
    # torch's fused attention has no second derivatives.
    with torch.enable_grad(), evaluating(model), sdpa_kernel(SDPBackend.MATH), _DifferentiableTwice():
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
    """The first batches of 16 of an epoch as a recipe trains on them, drawn once and then kept.

    Args:
        dataset: where the images are.
        recipe: how they are augmented.
        train: which ones are trained on.
        seed: of order and augmentation.
        device: where the batches go.
        count: how many, or all where there are fewer.
    """
    feed = Feed(
        recipe=replace(recipe, batch_size=BATCH), dataset=dataset, train=train, val=train[:0], seed=seed, device=device
    )
    batches = zip(range(count), feed.epoch(1), strict=False)
    return tuple((inputs, targets) for _, (inputs, targets) in batches)


class HessianSpectrum(Measurement):
    """The largest eigenvalues of each batch's Hessian."""

    name = "hessian"
    title = "Curvature of the loss"
    words = (
        "The five largest eigenvalues, by magnitude, of each batch's Hessian. A shorter positive side is flatter, and "
        "a negative side is where the loss is not convex. nep: share below zero; ape: mean of those above."
    )

    def train_batches(self, sizes: Sizes) -> int:
        """Those whose Hessians are measured."""
        return sizes.hessian_batches

    def work(self, subject: Subject) -> tuple[int, int]:
        """A part a batch; the products show the model no images."""
        return min(subject.sizes.hessian_batches, len(subject.train_batches)), 0

    def measure(self, subject: Subject, done: Rows) -> Iterator[Rows]:
        """One row an eigenvalue of a batch."""
        first = 1 + max((row["batch"] for row in done), default=-1)
        left = subject.train_batches[first : subject.sizes.hessian_batches]
        found = hessian(subject.model, left, weight_decay=subject.weight_decay, seed=subject.seed)
        for number, batch in enumerate(found, start=first):
            how = {"products": batch.products, "converged": batch.converged}
            yield [
                {"batch": number, "rank": rank, "eigenvalue": value, "residual": residual, **how}
                for rank, (value, residual) in enumerate(zip(batch.values, batch.residuals, strict=True))
            ]

    def summary(self, rows: Rows) -> Row:
        """The share below zero and the mean of those above."""
        values = [row["eigenvalue"] for row in rows]
        return {
            "nep": nep(values),
            "ape": ape(values),
            "batches": len({row["batch"] for row in rows}),
            "converged": all(row["converged"] for row in rows),
        }

    def figure(self, tables: Sequence[Table]) -> Figure:
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


HESSIAN = HessianSpectrum()
