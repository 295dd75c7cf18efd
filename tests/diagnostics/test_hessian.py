from collections.abc import Callable, Sequence
from copy import deepcopy
from itertools import pairwise
from math import isnan
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from buildup.diagnostics.analysis import Batch
from buildup.diagnostics.figures import Table, draw_figure
from buildup.diagnostics.hessian import (
    HessianSpectrum,
    ape,
    augmented_batches,
    batch_eigenvalues,
    hessian_products,
    nep,
)
from buildup.diagnostics.hooks import weights_digest
from buildup.errors import DataError
from buildup.training.data import load_data
from buildup.training.dataset import split
from buildup.training.recipe import load_recipe

Make = Callable[[str], nn.Module]


def soft(count: int, classes: int, seed: int = 0) -> Tensor:
    return torch.randn(count, classes, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)).softmax(1)


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def dense(model: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
    """The Hessian by torch's own means, weight by weight."""
    names = [name for name, _ in model.named_parameters()]
    flat = torch.cat([weight.detach().flatten() for weight in model.parameters()])
    shapes = [weight.shape for weight in model.parameters()]

    def loss(vector: Tensor) -> Tensor:
        parts = torch.split(vector, [shape.numel() for shape in shapes])
        weights = {name: part.view(shape) for name, part, shape in zip(names, parts, shapes, strict=True)}
        return F.cross_entropy(functional_call(model, weights, (inputs,)), targets)

    found = torch.autograd.functional.hessian(loss, flat)  # type: ignore[no-untyped-call]  # it has no types
    assert isinstance(found, Tensor)
    return found


def top(matrix: Tensor, count: int = 5) -> list[float]:
    values = torch.linalg.eigvalsh(matrix)
    return list(map(float, values[values.abs().argsort(descending=True)][:count]))


@pytest.fixture(scope="module")
def small() -> nn.Module:
    """A convolutional net of less than 2,000 weights, with batch norm."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layers = (nn.Conv2d(1, 4, 3, stride=2), nn.BatchNorm2d(4), nn.GELU(), nn.Conv2d(4, 6, 3), nn.Tanh())
        model = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 5))
        for weight in model.parameters():
            weight.data += 0.5 * torch.randn_like(weight)
    return model.double().eval()


def test_values_and_signs_are_those_of_the_dense_hessian(small: nn.Module) -> None:
    batch = (noise(16, 1, 10, 10), soft(16, 5))
    found = next(batch_eigenvalues(small, [batch], tolerance=1e-7))
    expected = top(dense(small, *batch))
    assert list(found.values) == pytest.approx(expected, rel=1e-5)
    assert any(value < 0 for value in expected), "the case has both signs"


def test_softmax_regression_has_the_hessian_of_the_books() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(6, 3, bias=False)).double()
    inputs, targets = noise(12, 1, 2, 3), soft(12, 3)
    rows = inputs.flatten(1)
    p = model(inputs).detach().softmax(1)
    expected = torch.zeros(18, 18, dtype=torch.float64)
    for row, share in zip(rows, p, strict=True):
        expected += torch.kron(share.diag() - torch.outer(share, share), torch.outer(row, row)) / len(rows)
    with hessian_products(model, inputs, targets) as (product, size):
        found = torch.stack([product(unit) for unit in torch.eye(size, dtype=torch.float64)])
    assert torch.allclose(found, expected, atol=1e-12)


def test_weight_decay_moves_each_value_by_itself(small: nn.Module) -> None:
    batch = (noise(16, 1, 10, 10), soft(16, 5))
    plain, decayed = (
        next(batch_eigenvalues(small, [batch], weight_decay=decay, count=3, tolerance=1e-8)) for decay in (0.0, 0.05)
    )
    shifted = [value + 0.05 for value in plain.values]
    assert sorted(decayed.values) == pytest.approx(sorted(shifted), rel=1e-5)


def test_residuals_are_true(small: nn.Module) -> None:
    inputs, targets = noise(16, 1, 10, 10), soft(16, 5)
    found = next(batch_eigenvalues(small, [(inputs, targets)], tolerance=1e-2))
    every = torch.linalg.eigvalsh(dense(small, inputs, targets))
    for value, residual in zip(found.values, found.residuals, strict=True):
        assert (every - value).abs().min() <= residual + 1e-9


@pytest.mark.parametrize("layout", ["CC|CM|CG|CK"])
def test_attention_of_every_kind_has_second_derivatives(make_alternet: Make, layout: str) -> None:
    model = make_alternet(layout).double()
    inputs, targets = noise(2, 1, 16, 16), soft(2, 10)
    weights = {name: weight.detach() for name, weight in model.named_parameters()}
    with hessian_products(model, inputs, targets) as (product, size):
        vector = noise(size, seed=3)
        vector /= vector.norm()
        found = product(vector)

    def gradient(step: float) -> Tensor:
        parts = torch.split(vector, [weight.numel() for weight in weights.values()])
        moved = {
            name: (weight + step * part.view_as(weight)).requires_grad_()
            for (name, weight), part in zip(weights.items(), parts, strict=True)
        }
        loss = F.cross_entropy(functional_call(model.eval(), moved, (inputs,)), targets)
        return torch.cat([part.flatten() for part in torch.autograd.grad(loss, list(moved.values()))])

    step = 1e-5
    assert torch.allclose(
        found, (gradient(step) - gradient(-step)) / (2 * step), atol=1e-6 * found.norm().item() + 1e-8
    )


def test_the_model_is_left_as_it_was(make: Make) -> None:
    model = make("test_vit").train()
    for weight in model.parameters():
        weight.requires_grad_(False)
    before = weights_digest(model)
    found = next(
        batch_eigenvalues(model, [(noise(2, 3, 32, 32).float(), soft(2, 10).float())], count=1, most_products=3)
    )
    assert found.products <= 3
    assert weights_digest(model) == before
    assert all(weight.grad is None and not weight.requires_grad for weight in model.parameters())


def test_whoever_takes_the_values_does_not_compute_as_the_hessian_does(make: Make) -> None:
    before = torch.backends.cudnn.allow_tf32, torch.is_grad_enabled()
    batches = [(noise(2, 3, 32, 32).float(), soft(2, 10).float())] * 2
    with torch.no_grad():
        values = batch_eigenvalues(make("test_vit"), batches, count=1, most_products=3)
        next(values)  # and is stopped here
        assert (torch.backends.cudnn.allow_tf32, torch.is_grad_enabled()) == (before[0], False)
        assert not torch._C._len_torch_function_stack()


def test_batches_are_drawn_once_and_the_same_way(make_alternet: Make) -> None:
    digits, recipe = load_data("digits"), load_recipe("paper")
    train, _ = split(digits, 0)

    def draw(seed: int) -> tuple[Batch, ...]:
        return augmented_batches(digits, recipe, train, seed=seed, device=torch.device("cpu"), count=2)

    one, again, other = draw(0), draw(0), draw(1)
    assert [tuple(inputs.shape) for inputs, _ in one] == [(16, 1, 16, 16)] * 2
    assert all(
        torch.equal(a, b) for first, second in zip(one, again, strict=True) for a, b in zip(first, second, strict=True)
    )
    assert not torch.equal(one[0][0], other[0][0])
    model = make_alternet("CC|CC|CC|CM")
    first, second = (list(batch_eigenvalues(model, one[:1], count=1, tolerance=0.1)) for _ in range(2))
    assert first == second


def test_shares_and_means_are_those_of_the_paper() -> None:
    values = [4.0, -2.0, 2.0, 6.0]
    assert nep(values) == 0.25
    assert ape(values) == 4.0
    assert nep([-1.0]) == 1
    assert ape([-1.0]) is None


def test_weights_that_are_no_numbers_are_refused(make: Make) -> None:
    model = make("test_vit")
    next(model.parameters()).data.fill_(float("nan"))
    with pytest.raises(DataError, match="nan"):
        next(batch_eigenvalues(model, [(noise(2, 3, 32, 32).float(), soft(2, 10).float())]))


def test_a_quadratic_has_its_own_spectrum() -> None:
    # Two classes and one input: the logit's second derivative is p (1 - p) times the inputs' outer product.
    model = nn.Sequential(nn.Flatten(), nn.Linear(1, 2, bias=False)).double()
    next(model.parameters()).data.zero_()
    found = next(
        batch_eigenvalues(
            model, [(torch.full((1, 1, 1, 1), 4.0).double(), torch.tensor([[0.5, 0.5]]).double())], count=2
        )
    )
    assert list(found.values) == pytest.approx([8.0, 0.0], abs=1e-9)
    assert all(abs(first) >= abs(second) for first, second in pairwise(found.values))


@pytest.fixture
def hard() -> nn.Module:
    """A net with the activations of MobileNetV3, which torch differentiates once only."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        layers = (nn.Conv2d(1, 4, 3, stride=2), nn.Hardswish(inplace=True), nn.Conv2d(4, 5, 3), nn.Hardsigmoid())
        model = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())
    return model.double().eval()


def test_activations_that_torch_differentiates_once_have_second_derivatives_here(hard: nn.Module) -> None:
    inputs, targets = noise(6, 1, 8, 8), soft(6, 5)
    soft_one = deepcopy(hard)
    soft_one.add_module("1", Plain("hardswish"))
    soft_one.add_module("3", Plain("hardsigmoid"))
    assert torch.allclose(hard(inputs), soft_one(inputs))
    expected = dense(soft_one, inputs, targets)
    with hessian_products(hard, inputs, targets) as (product, size):
        found = torch.stack([product(row) for row in torch.eye(size, dtype=torch.float64)])
    assert torch.allclose(found, expected, atol=1e-10)


class Plain(nn.Module):
    """A hard activation by its formula."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name

    def forward(self, inputs: Tensor) -> Tensor:
        gate = ((inputs + 3) / 6).clamp(0, 1)
        return inputs * gate if self.name == "hardswish" else gate


def test_a_function_without_second_derivative_is_named(hard: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("buildup.diagnostics.hessian.TWICE", {})
    with pytest.raises(DataError, match="hards"):
        list(batch_eigenvalues(hard, [(noise(6, 1, 8, 8), soft(6, 5))]))


def phase(series: str, epoch: int, values: Sequence[float]) -> Table:
    rows = [{"batch": number, "rank": 0, "eigenvalue": value, "converged": True} for number, value in enumerate(values)]
    return Table(label=f"{series}@{epoch}", series=series, epoch=epoch, units=[], rows=rows)


def test_the_share_of_negative_eigenvalues_and_the_mean_of_the_others_are_drawn_over_the_epochs() -> None:
    phases = [phase("a", 20, [-1, 2, 4, 6]), phase("a", 5, [-3, -1, 5, 7]), phase("b", 5, [8, 10]), phase("b", 9, [-1])]
    figure = draw_figure(HessianSpectrum().figure, phases)
    # Epochs 5, 9 and 20, and the last row.
    assert len(figure.axes) == 8
    panels: Any = figure.axes[-2:]
    shares, means = (
        {line.get_label(): [list(line.get_xdata()), list(line.get_ydata())] for line in axes.lines} for axes in panels
    )
    assert shares == {"a": [[5, 20], [50, 25]], "b": [[5, 9], [0, 100]]}
    assert means["a"] == [[5, 20], [6, 4]]
    assert means["b"][1][0] == 9
    assert isnan(means["b"][1][1])
    # The phases of one training are compared in one row, and models without phases as ever.
    assert len(draw_figure(HessianSpectrum().figure, phases[:2]).axes) == 4
    assert len(draw_figure(HessianSpectrum().figure, phases[1:3]).axes) == 2
