from collections.abc import Callable
from math import nan

import pytest
import torch
from torch import Tensor, nn

from buildup.diagnostics.cka import UnitSimilarity, cka, gram, grams, hsic
from buildup.diagnostics.figures import Rows, Table
from buildup.diagnostics.units import find_units
from buildup.errors import DataError

Make = Callable[[str], nn.Module]


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def similarity(one: Tensor, other: Tensor) -> float:
    first, second = gram(one)[None], gram(other)[None]
    return (hsic(first, second) / (hsic(first, first) * hsic(second, second)).sqrt()).item()


def full_hsic(first: Tensor, second: Tensor) -> Tensor:
    """The estimate written out."""
    n = len(first)
    k, m = first - first.diag().diag(), second - second.diag().diag()
    ones = torch.ones(n, dtype=k.dtype)
    parts = (k @ m).trace() + (ones @ k @ ones) * (ones @ m @ ones) / ((n - 1) * (n - 2))
    return (parts - 2 / (n - 2) * (ones @ k @ m @ ones)) / (n * (n - 3))


def test_one_batch_gives_the_full_unbiased_estimate() -> None:
    one, other = gram(noise(9, 5)), gram(noise(9, 7, seed=1))
    assert hsic(one[None], other[None]).item() == pytest.approx(full_hsic(one, other).item())


def test_features_are_like_themselves_turned_scaled_and_moved() -> None:
    features = noise(20, 6)
    turned = torch.linalg.qr(noise(6, 6, seed=1)).Q
    assert similarity(features, features) == pytest.approx(1)
    assert similarity(features, -3 * features @ turned) == pytest.approx(1)
    assert similarity(features, features + 5) == pytest.approx(1)


def test_independent_noise_is_unlike_although_it_has_more_features_than_images() -> None:
    values = [similarity(noise(32, 2000, seed=2 * seed), noise(32, 2000, seed=2 * seed + 1)) for seed in range(8)]
    assert sum(values) / len(values) == pytest.approx(0, abs=0.05)

    def centred(features: Tensor) -> Tensor:
        return features - features.mean(0)

    one, other = gram(centred(noise(32, 2000))), gram(centred(noise(32, 2000, seed=1)))
    assert ((one * other).sum() / (one.norm() * other.norm())).item() > 0.9  # what a biased estimate says


def test_a_model_is_like_itself_in_every_unit(make: Make) -> None:
    model = make("pit_ti_224")
    images = noise(12, 3, 32, 32).float()
    units = find_units(model, images[:1])
    found = cka(model, units, torch.split(images, 6)).float()
    assert found.shape == (len(units), len(units))
    assert torch.allclose(found, found.T, atol=1e-6)
    assert torch.allclose(found.diag(), torch.ones(len(units)), atol=1e-6)


def test_a_unit_with_a_constant_output_is_left_out_of_the_mean() -> None:
    pairs = [(0, 1, 0.5, True), (0, 2, None, False), (1, 0, 0.5, True), (1, 2, nan, False)]
    rows: Rows = [{"unit": one, "other": other, "cka": value, "same_stage": same} for one, other, value, same in pairs]
    units = [{"unit": number, "subsamples": False} for number in range(3)]
    assert UnitSimilarity().summary(rows) == {"mean": 0.5}
    assert UnitSimilarity().summary(rows[1:2]) == {}
    UnitSimilarity().figure([Table(label="net", units=units, rows=rows)])


def test_terms_are_summed_over_batches_before_they_are_divided(make: Make) -> None:
    model = make("test_vit")
    images = noise(11, 3, 32, 32).float()
    units = find_units(model, images[:1])
    found = cka(model, units, [images[:6], images[6:10], images[10:]])

    def terms(first: Tensor, second: Tensor) -> Tensor:
        return torch.stack([full_hsic(first, second), full_hsic(first, first), full_hsic(second, second)])

    parts = [len(part) * terms(*grams(model, units, part)[[1, 3]]) for part in (images[:6], images[6:10])]
    cross, own, theirs = sum(parts, torch.zeros(3))
    assert found[1, 3].item() == pytest.approx((cross / (own * theirs).sqrt()).item())


def test_three_images_are_too_few(make: Make) -> None:
    model = make("test_vit")
    images = noise(3, 3, 32, 32).float()
    with pytest.raises(DataError, match="at least 4"):
        cka(model, find_units(model, images[:1]), [images])
