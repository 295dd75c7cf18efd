"""The eigenvalues of largest magnitude of a symmetric operator that is known by its products with vectors alone.

Lanczos with full re-orthogonalisation finds both ends of the spectrum at once, with a residual for each value: a power
iteration, which stops when its value changes little, returns something between when a and -a nearly tie. A restart
keeps the best half of the basis, so memory is bounded.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

Product = Callable[[Tensor], Tensor]

BREAKDOWN = 1e-10
"""What is left of a vector outside of the basis, as a share of the operator's norm, below which nothing is left."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Extremes:
    """Some eigenvalues of an operator."""

    values: tuple[float, ...]
    """Signed, by falling magnitude."""
    residuals: tuple[float, ...]
    """||Av - av|| for each, with ||v|| = 1: an eigenvalue lies within this distance of a."""
    products: int
    converged: bool
    """Whether each residual is within the tolerance."""


def extremes(
    product: Product,
    start: Tensor,
    count: int,
    *,
    tolerance: float = 1e-3,
    most_products: int = 200,
    basis_size: int = 40,
) -> Extremes:
    """The `count` eigenvalues of largest magnitude.

    Args:
        product: From a vector to its product; one of the operator's type and device.
        start: Where to begin; a vector without a part along an eigenvector never finds it, so a random one is right.
        count: How many; fewer are found of a smaller operator.
        tolerance: How large a residual may be, as a share of the largest eigenvalue's magnitude.
        most_products: After so many the search ends as it is.
        basis_size: Vectors that are kept at most.
    """
    size = start.numel()
    count, basis_size = min(count, size), min(max(basis_size, 2 * count + 2), size)
    basis = start.new_zeros(basis_size + 1, size)
    basis[0] = start / start.norm()
    projected = torch.zeros(basis_size, basis_size, dtype=torch.float64)
    filled, products = 0, 0
    while True:
        image = product(basis[filled])
        products += 1
        known = basis[: filled + 1]
        # Twice is enough: what rounding leaves of the basis after the first time is gone after the second.
        along = known @ image
        image = image - along @ known
        again = known @ image
        image = image - again @ known
        column = (along + again).double().cpu()
        projected[: filled + 1, filled] = column
        projected[filled, : filled + 1] = column
        filled += 1
        rest = image.norm().item()
        values, vectors = torch.linalg.eigh(projected[:filled, :filled])
        order = values.abs().argsort(descending=True)
        values, vectors = values[order], vectors[:, order]
        largest = values[0].abs().item()
        ended = filled == size or rest <= BREAKDOWN * largest or products == most_products
        residuals = (0.0 if filled == size else rest) * vectors[-1, :count].abs()
        converged = filled >= count and bool((residuals <= tolerance * largest).all())
        if ended or converged:
            return Extremes(
                values=tuple(values[:count].tolist()),
                residuals=tuple(residuals.tolist()),
                products=products,
                converged=converged or filled == size or rest <= BREAKDOWN * largest,
            )
        basis[filled] = image / rest
        if filled == basis_size:
            kept = max(count + 1, basis_size // 2)
            best = vectors[:, :kept].T.to(basis)
            basis[:kept] = best @ basis[:filled]
            basis[kept] = basis[filled]
            projected.zero_()
            projected[:kept, :kept] = values[:kept].diag()
            # The next product finds how the kept vectors and the new one are tied to each other.
            filled = kept
