from collections.abc import Callable
from math import log, pi

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from buildup.diagnostics.feature_maps import SMALLEST, Frequencies, spectrum, unit_spectra
from buildup.diagnostics.figures import Table, draw_figure
from buildup.diagnostics.units import find_units, unit_outputs

Make = Callable[[str], nn.Module]


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def box_blur(maps: Tensor) -> Tensor:
    """A circular mean of 2 x 2."""
    across = (maps + maps.roll(1, 3)) / 2
    return (across + across.roll(1, 2)) / 2


def test_a_constant_map_has_hardly_any_high_frequency() -> None:
    found = spectrum(torch.full((2, 3, 14, 14), 2.0))
    assert found.high == pytest.approx(log(SMALLEST) - log(14 * 14 * 2.0 + SMALLEST))
    assert found.high_energy == 0


@pytest.mark.parametrize("bin_", [1, 3, 6])
def test_a_cosine_stands_at_its_bin(bin_: int) -> None:
    steps = torch.arange(14, dtype=torch.float64)
    wave = 1 + torch.cos(2 * pi * bin_ / 14 * (steps[:, None] + steps))
    found = spectrum(wave[None, None])
    assert found.amplitudes[bin_] == pytest.approx(-log(2), abs=1e-6)
    assert all(value < -10 for index, value in enumerate(found.amplitudes) if index not in (0, bin_))


def test_white_noise_is_flat_and_above_its_only_real_bin() -> None:
    found = spectrum(noise(64, 32, 14, 14))
    for value in found.amplitudes[1:]:
        # Of 2,048 logarithms of Rayleigh amplitudes, each with a deviation of 0.64, and one of a normal, of 1.11.
        assert value == pytest.approx(log(2) / 2, abs=4 * 1.3 / 2048**0.5)


@pytest.mark.parametrize(("side", "share"), [(4, 0.733), (7, 0.833), (8, 0.746), (14, 0.754), (32, 0.750)])
def test_white_noise_has_about_the_same_share_of_high_energy_at_every_size(side: int, share: float) -> None:
    assert spectrum(noise(8, 16000 // side**2, side, side)).high_energy == pytest.approx(share, abs=0.01)


def test_a_box_blur_adds_its_transfer_function() -> None:
    maps = noise(4, 4, 14, 14)
    before, after = spectrum(maps), spectrum(box_blur(maps))
    added = [new - old for old, new in zip(before.amplitudes, after.amplitudes, strict=True)]
    expected = [2 * log(abs(np.cos(pi * share / 2))) for share in before.frequencies]
    assert added == pytest.approx(expected, abs=1e-4)
    assert expected[1:] == pytest.approx([-0.051, -0.209, -0.492, -0.945, -1.670, -3.005], abs=1e-3)


@pytest.mark.parametrize(("side", "end"), [(7, 0.857), (14, 0.857), (28, 0.929), (56, 0.964)])
def test_frequencies_end_where_the_diagonal_does(side: int, end: float) -> None:
    found = spectrum(noise(1, 1, side, side))
    assert found.frequencies[-1] == pytest.approx(end, abs=1e-3)


@pytest.mark.parametrize("side", [7, 8, 14])
def test_amplitudes_are_those_of_the_reference_code(side: int) -> None:
    maps = noise(3, 5, side, side)

    def reference(values: NDArray[np.float64]) -> NDArray[np.float64]:
        logs = np.log(np.abs(np.fft.fft2(values)) + 1e-6).mean((0, 1))
        middle = side // 2
        shifted = np.roll(logs, (middle, middle), (0, 1))
        diagonal: NDArray[np.float64] = np.array([shifted[index, index] for index in range(middle, side)])
        return diagonal - diagonal[:1]

    assert spectrum(maps).amplitudes == pytest.approx(reference(maps.numpy()).tolist(), abs=1e-9)


def test_the_share_of_energy_knows_neither_scale_nor_mean() -> None:
    maps = noise(2, 3, 12, 12)
    assert spectrum(5 * maps + 7).high_energy == pytest.approx(spectrum(maps).high_energy)


def test_maps_that_are_not_square_have_a_diagonal_too() -> None:
    steps, long = torch.arange(8, dtype=torch.float64), torch.arange(24, dtype=torch.float64)
    wave = 1 + torch.cos(2 * pi * (2 / 8 * steps[:, None] + 6 / 24 * long))
    assert spectrum(wave[None, None]).amplitudes[2] == pytest.approx(-log(2), abs=1e-6)


def test_units_are_measured_as_their_maps_would_be_whatever_the_batches(make: Make) -> None:
    model = make("test_vit")
    images = noise(6, 3, 32, 32).float()
    units = find_units(model, images[:1])
    found = unit_spectra(model, units, torch.split(images, 4))
    alone = units[2].as_map(unit_outputs(model, units, images)[2])
    assert alone is not None
    assert found[2].amplitudes == pytest.approx(spectrum(alone).amplitudes, abs=1e-4)
    assert len(units) - 1 not in found


def test_the_highest_frequency_depends_on_the_size_of_the_maps_and_the_figure_says_it() -> None:
    sizes = (16, 16, 7, 4)
    found = [spectrum(noise(1, 1, size, size)) for size in sizes]
    ends = [one.frequencies[-1] for one in found]
    assert ends == [7 / 8, 7 / 8, 6 / 7, 1 / 2]  # of an even side n the bin n / 2 - 1, of an odd one (n - 1) / 2
    rows = [
        {"unit": unit, "kind": "conv", "stage": unit, "frequency": at, "log_amplitude": value, "high_energy": 0.5}
        for unit, one in enumerate(found)
        for at, value in zip(one.frequencies, one.amplitudes, strict=True)
    ]
    units = [{"unit": unit, "kind": "conv", "subsamples": False} for unit in range(len(sizes))]
    figure = draw_figure(Frequencies().figure, [Table(label="net", units=units, rows=rows)])
    highest = next(axes for axes in figure.axes if "highest" in axes.get_ylabel())
    assert [text.get_text() for text in highest.texts] == ["0.88π", "0.86π", "0.5π"]
