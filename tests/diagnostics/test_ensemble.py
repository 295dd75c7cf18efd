"""Averages over passes with dropout, against their closed forms."""

import itertools
from collections.abc import Callable, Iterator
from math import sqrt

import pytest
import torch
from torch import Tensor, nn

from buildup.diagnostics.hooks import weights_digest
from buildup.diagnostics.predictions import dropout_ensemble, enable_dropout, evaluate
from buildup.training.metrics import measure_logits

IMAGES, CLASSES, FEATURES, RATE = 60, 4, 5, 0.3
DRAWS = torch.Generator().manual_seed(0)
INPUTS = torch.randn(IMAGES, FEATURES, generator=DRAWS)
LABELS = torch.randint(CLASSES, (IMAGES,), generator=DRAWS)


def linear(rate: float) -> nn.Module:
    layer = nn.Linear(FEATURES, CLASSES)
    with torch.no_grad():
        layer.weight.copy_(torch.randn(CLASSES, FEATURES, generator=torch.Generator().manual_seed(1)))
        layer.bias.zero_()
    return nn.Sequential(nn.Dropout(rate), layer)


def batches(size: int) -> Callable[[], Iterator[tuple[Tensor, Tensor]]]:
    return lambda: zip(torch.split(INPUTS, size), torch.split(LABELS, size), strict=True)


def test_without_a_rate_each_pass_is_the_deterministic_one() -> None:
    model = linear(0.0)
    plain = evaluate(model, batches(7)())
    for found in dropout_ensemble(model, batches(7), 3, seed=0):
        assert found.values == pytest.approx(plain.values, abs=1e-6)


def test_many_passes_give_the_expectation_over_all_masks() -> None:
    model = linear(RATE)
    expected = torch.zeros(IMAGES, CLASSES, dtype=torch.float64)
    second = torch.zeros_like(expected)
    with torch.no_grad():
        for mask in itertools.product((0.0, 1.0), repeat=FEATURES):
            kept = torch.tensor(mask)
            weight = (1 - RATE) ** sum(mask) * RATE ** (FEATURES - sum(mask))
            p = model.eval()(INPUTS * kept / (1 - RATE)).double().softmax(1)
            expected += weight * p
            second += weight * p.square()
    passes = 400
    *_, found = dropout_ensemble(model, batches(IMAGES), passes, seed=3)
    exact = measure_logits(expected.log(), LABELS)
    p = (-found.losses).exp()
    truth = expected.gather(1, LABELS[:, None])[:, 0]
    spread = (second - expected.square()).gather(1, LABELS[:, None])[:, 0].clamp(min=0).sqrt()
    assert ((p - truth).abs() < 4.5 * spread / sqrt(passes) + 1e-6).all()
    assert found.nll == pytest.approx(exact.nll, abs=0.01)
    # The mean of probabilities is no worse than the mean of what single passes say (Jensen).
    singles = [next(iter(dropout_ensemble(model, batches(IMAGES), 1, seed=seed))).nll for seed in range(20)]
    assert found.nll < sum(singles) / len(singles)


def test_the_size_of_the_batches_changes_nothing() -> None:
    found = [[one.nll for one in dropout_ensemble(linear(RATE), batches(size), 3, seed=5)] for size in (1, 7, IMAGES)]
    assert found[0] == pytest.approx(found[1], abs=1e-6)
    assert found[0] == pytest.approx(found[2], abs=1e-6)


def test_more_passes_go_on_from_fewer_and_another_seed_does_not() -> None:
    few, more, other = (
        [one.nll for one in dropout_ensemble(linear(RATE), batches(16), passes, seed=seed)]
        for passes, seed in ((2, 0), (4, 0), (4, 1))
    )
    assert few == more[:2]
    assert more[0] != other[0]
    assert len(set(more)) == 4


def test_only_dropout_leaves_evaluation_mode() -> None:
    model = nn.Sequential(nn.BatchNorm1d(FEATURES), linear(RATE))
    before = weights_digest(model.train())
    list(dropout_ensemble(model, batches(16), 2, seed=0))
    assert weights_digest(model) == before
    with torch.no_grad():
        plain = model.eval()(INPUTS)
        with enable_dropout(model, "0"):
            assert not torch.equal(model(INPUTS), plain)
        assert torch.equal(model(INPUTS), plain)
