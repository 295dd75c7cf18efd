"""Metrics by hand."""

import math
from functools import reduce
from operator import add

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from buildup.training.metrics import measure_logits, metrics, tally


def test_a_case_by_hand() -> None:
    p = torch.tensor([[0.7, 0.2, 0.1], [0.6, 0.3, 0.1], [0.2, 0.3, 0.5], [0.1, 0.8, 0.1]], dtype=torch.float64)
    found = measure_logits(p.log(), torch.tensor([0, 1, 2, 1]))
    assert found.correct.tolist() == [True, False, True, True]
    assert found.accuracy == 75.0
    assert found.values["top5"] == 100.0
    assert found.nll == pytest.approx(-sum(map(math.log, (0.7, 0.3, 0.5, 0.8))) / 4)
    assert found.losses.tolist() == pytest.approx([-math.log(p) for p in (0.7, 0.3, 0.5, 0.8)])
    assert found.brier == pytest.approx((0.14 + 0.86 + 0.38 + 0.06) / 4)
    assert found.ece == pytest.approx((0.3 + 0.6 + 0.5 + 0.2) / 4)
    assert found.values["ecse"] == pytest.approx((-0.3 + 0.6 - 0.5 - 0.2) / 4)
    assert found.values["iou"] == pytest.approx((1 / 2 + 1 / 2 + 1 / 1) / 3)
    # None is sure, so nothing is said of those who are; the one that is wrong is rightly unsure.
    assert [found.values.get(name) for name in ("acc90", "unc90", "freq90", "iou90")] == [None, 1.0, 0.0, None]
    assert "acc90" not in found.values
    assert [(bar.images, bar.accuracy) for bar in found.bins if bar.images] == [(1, 1.0), (1, 0.0), (1, 1.0), (1, 1.0)]


def test_confident_predictions_are_told_apart() -> None:
    p = torch.tensor([[0.95, 0.05], [0.92, 0.08], [0.9, 0.1], [0.6, 0.4]], dtype=torch.float64)
    found = measure_logits(p.log(), torch.tensor([0, 1, 1, 0]))
    assert found.values["acc90"] == 50.0
    assert found.values["unc90"] == 0.5
    assert found.values["freq90"] == 0.5
    assert found.values["iou90"] == pytest.approx((1 / 2 + 0) / 2)


def test_a_perfect_and_saturated_model_is_calibrated() -> None:
    found = measure_logits(1e4 * torch.eye(10), torch.arange(10))
    assert (found.ece, found.values["ecse"], found.nll, found.brier, found.accuracy) == (0.0, 0.0, 0.0, 0.0, 100.0)
    assert [found.values.get(name) for name in ("acc90", "unc90", "freq90", "iou")] == [100.0, None, 1.0, 1.0]


def test_one_confident_error_leaves_the_likelihood_finite() -> None:
    assert measure_logits(torch.tensor([[1e4, 0.0]]), torch.tensor([1])).nll == 1e4


def test_a_confidence_on_an_edge_belongs_to_the_lower_bin() -> None:
    p = torch.tensor([[0.5, 0.5], [0.45, 0.55]], dtype=torch.float64)
    # One right at 0.5 and one wrong at 0.55: apart they do not cancel.
    assert measure_logits(p.log(), torch.tensor([0, 0])).ece == pytest.approx((0.5 + 0.55) / 2)
    within = torch.tensor([[0.58, 0.42], [0.45, 0.55]], dtype=torch.float64)
    assert measure_logits(within.log(), torch.tensor([0, 0])).ece == pytest.approx(abs(1 - 1.13) / 2)


@settings(deadline=None)  # the first call of torch warms up
@given(images=st.integers(2, 40), cut=st.integers(1, 39), seed=st.integers(0, 1000))
def test_metrics_of_parts_add_up_to_those_of_the_whole(images: int, cut: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits = 5 * torch.randn(images, 7, generator=generator)
    labels = torch.randint(7, (images,), generator=generator)
    whole = measure_logits(logits, labels)
    parts = [part for part in (slice(0, cut), slice(cut, images)) if logits[part].numel()]
    added = metrics(reduce(add, (tally(logits[part], labels[part]) for part in parts)))
    assert added.values == pytest.approx(whole.values)
    assert added.correct.equal(whole.correct)
    assert [bar.images for bar in added.bins] == [bar.images for bar in whole.bins]
    assert whole.nll == pytest.approx(float(F.cross_entropy(logits.double(), labels)))
