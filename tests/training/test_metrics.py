"""Metrics by hand."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from buildup.training.metrics import measure


def test_a_case_by_hand() -> None:
    p = torch.tensor([[0.7, 0.2, 0.1], [0.6, 0.3, 0.1], [0.2, 0.3, 0.5], [0.1, 0.8, 0.1]], dtype=torch.float64)
    found = measure(p.log(), torch.tensor([0, 1, 2, 1]))
    assert found.correct.tolist() == [True, False, True, True]
    assert found.accuracy == 75.0
    assert found.top5 == 100.0
    assert found.nll == pytest.approx(-sum(map(math.log, (0.7, 0.3, 0.5, 0.8))) / 4)
    assert found.brier == pytest.approx((0.14 + 0.86 + 0.38 + 0.06) / 4)
    assert found.ece == pytest.approx((0.3 + 0.6 + 0.5 + 0.2) / 4)


def test_a_perfect_and_saturated_model_is_calibrated() -> None:
    found = measure(1e4 * torch.eye(10), torch.arange(10))
    assert (found.ece, found.nll, found.brier, found.accuracy) == (0.0, 0.0, 0.0, 100.0)


def test_one_confident_error_leaves_the_likelihood_finite() -> None:
    assert measure(torch.tensor([[1e4, 0.0]]), torch.tensor([1])).nll == 1e4


def test_a_confidence_on_an_edge_belongs_to_the_lower_bin() -> None:
    p = torch.tensor([[0.5, 0.5], [0.45, 0.55]], dtype=torch.float64)
    # One right at 0.5 and one wrong at 0.55: apart they do not cancel.
    assert measure(p.log(), torch.tensor([0, 0]), bins=10).ece == pytest.approx((0.5 + 0.55) / 2)
    assert measure(p.log(), torch.tensor([0, 0]), bins=1).ece == pytest.approx(abs(1 - 1.05) / 2)


@settings(deadline=None)  # the first call of torch warms up
@given(images=st.integers(2, 40), cut=st.integers(1, 39), seed=st.integers(0, 1000))
def test_metrics_of_parts_add_up_to_those_of_the_whole(images: int, cut: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits = 5 * torch.randn(images, 7, generator=generator)
    labels = torch.randint(7, (images,), generator=generator)
    whole = measure(logits, labels)
    parts = [part for part in (slice(0, cut), slice(cut, images)) if logits[part].numel()]
    for name in ("accuracy", "top5", "nll", "brier"):
        means = [(measure(logits[part], labels[part]).values[name], len(labels[part])) for part in parts]
        assert sum(mean * count for mean, count in means) / images == pytest.approx(whole.values[name])
    assert whole.nll == pytest.approx(float(F.cross_entropy(logits.double(), labels)))
