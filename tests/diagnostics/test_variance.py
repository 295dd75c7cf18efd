from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from buildup.diagnostics.feature_maps import spatial_variance, unit_variances
from buildup.diagnostics.units import find_units, unit_outputs


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def test_a_constant_map_has_none() -> None:
    assert spatial_variance(torch.full((2, 3, 4, 4), 5.0)) == 0


def test_white_noise_has_its_own() -> None:
    assert spatial_variance(3 * noise(32, 16, 8, 8)) == pytest.approx(9, rel=0.03)


def test_a_box_blur_leaves_a_quarter() -> None:
    maps = noise(32, 16, 16, 16)
    across = (maps + maps.roll(1, 3)) / 2
    assert spatial_variance((across + across.roll(1, 2)) / 2) == pytest.approx(0.25, rel=0.03)


def test_means_of_windows_leave_one_in_as_many_as_their_places() -> None:
    maps = noise(32, 16, 16, 16)
    means = F.avg_pool2d(maps, 4).repeat_interleave(4, 2).repeat_interleave(4, 3)
    assert spatial_variance(means) == pytest.approx(1 / 16, rel=0.08)


def test_it_grows_with_the_square_of_the_scale() -> None:
    maps = noise(2, 3, 8, 8)
    assert spatial_variance(-3 * maps + 1) == pytest.approx(9 * spatial_variance(maps))


def test_it_varies_over_places_and_not_over_images_or_channels() -> None:
    levels = noise(4, 5, 1, 1).expand(4, 5, 6, 6)
    assert spatial_variance(levels) == pytest.approx(0, abs=1e-20)


def test_units_are_measured_without_class_tokens_whatever_the_batches(make: Callable[[str], nn.Module]) -> None:
    model = make("test_vit")
    images = noise(5, 3, 32, 32).float()
    units = find_units(model, images[:1])
    found = unit_variances(model, units, torch.split(images, 2))
    outputs = unit_outputs(model, units, images)
    assert found[1] == pytest.approx(outputs[1][:, 1:].double().var(1).mean().item())
    assert set(found) == set(range(len(units) - 1))
