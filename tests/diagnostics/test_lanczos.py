import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from buildup.diagnostics.hessian import extreme_eigenvalues


def symmetric(values: Tensor, seed: int = 0) -> Tensor:
    """A dense matrix of these eigenvalues."""
    turned = torch.linalg.qr(torch.randn(len(values), len(values), dtype=torch.float64, generator=random(seed))).Q
    matrix: Tensor = turned @ values.diag() @ turned.T
    return matrix


def random(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def start(size: int, seed: int = 1) -> Tensor:
    return torch.randn(size, dtype=torch.float64, generator=random(seed))


def test_two_ends_that_nearly_tie_are_told_apart() -> None:
    # On this a power iteration that stops at small changes gave -4.4, 6.0 and 4.5.
    matrix = symmetric(torch.cat([torch.tensor([10.0, -10.0, 8.0]), torch.linspace(-3, 3, 47)]).double())
    found = extreme_eigenvalues(lambda vector: matrix @ vector, start(50), 3, tolerance=1e-9)
    assert sorted(found.values) == pytest.approx([-10, 8, 10])
    assert found.converged


@given(seed=st.integers(0, 1000), size=st.integers(1, 60), count=st.integers(1, 6))
@settings(max_examples=25, deadline=None)
def test_values_are_those_of_the_dense_matrix(seed: int, size: int, count: int) -> None:
    dense = torch.randn(size, size, dtype=torch.float64, generator=random(seed))
    dense = dense + dense.T
    found = extreme_eigenvalues(lambda vector: dense @ vector, start(size), count, tolerance=1e-8, basis_size=15)
    every = torch.linalg.eigvalsh(dense)
    expected = every[every.abs().argsort(descending=True)][: min(count, size)]
    assert list(found.values) == pytest.approx(expected.tolist(), rel=1e-6, abs=1e-6 * expected[0].abs().item())


@pytest.mark.parametrize("tolerance", [1e-1, 1e-3, 1e-6])
def test_an_eigenvalue_lies_within_the_residual(tolerance: float) -> None:
    matrix = symmetric(torch.linspace(-50, 90, 120).double())
    found = extreme_eigenvalues(lambda vector: matrix @ vector, start(120), 5, tolerance=tolerance, basis_size=14)
    every = torch.linalg.eigvalsh(matrix)
    assert found.converged
    for value, residual in zip(found.values, found.residuals, strict=True):
        assert (every - value).abs().min() <= residual + 1e-9
        assert residual <= tolerance * 90.1


def test_a_bounded_basis_needs_more_products_and_finds_the_same() -> None:
    matrix = symmetric(torch.linspace(-50, 90, 200).double())
    small, large = (
        extreme_eigenvalues(lambda vector: matrix @ vector, start(200), 4, tolerance=1e-7, basis_size=size)
        for size in (12, 200)
    )
    assert small.values == pytest.approx(large.values)
    assert small.products > large.products


def test_a_search_that_ends_too_early_says_so() -> None:
    matrix = symmetric(torch.linspace(-1, 1, 100).double())
    found = extreme_eigenvalues(lambda vector: matrix @ vector, start(100), 5, tolerance=1e-9, most_products=7)
    assert not found.converged
    assert found.products == 7


def test_the_negative_of_the_identity_has_one_value_only() -> None:
    found = extreme_eigenvalues(lambda vector: -vector, start(30), 5)
    assert found.values == pytest.approx([-1.0])
    assert found.converged
