from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from buildup.diagnostics.analysis import labelled_batches
from buildup.diagnostics.noise import PAPER_BANDS, Band, band_mask, band_pass, noisy_batches, scale_noise, white_noise
from buildup.diagnostics.predictions import evaluate
from buildup.training.dataset import Dataset
from buildup.training.metrics import Metrics
from held_out import load_test

TILES = [Band(low=step / 10, high=(step + 1) / 10) for step in range(10)]


def some_digits(count: int) -> Dataset:
    digits = load_test("digits")
    return Dataset(
        name="digits",
        images=digits.images[:count],
        labels=digits.labels[:count],
        class_names=digits.class_names,
        mean=digits.mean,
        std=digits.std,
    )


@pytest.mark.parametrize("size", [(32, 32), (15, 15), (16, 28)])
def test_all_bands_together_are_the_noise(size: tuple[int, int]) -> None:
    noise = white_noise((2, 3, *size), seed=0)
    parts: Tensor = sum((band_pass(noise, band_mask(size, band)) for band in TILES), torch.zeros(()))
    assert torch.allclose(parts, noise, atol=1e-12)


@pytest.mark.parametrize("size", [(32, 32), (15, 16)])
def test_filtered_noise_is_real_and_nowhere_but_in_its_band(size: tuple[int, int]) -> None:
    for band in PAPER_BANDS:
        mask = band_mask(size, band)
        spectrum = torch.fft.fft2(white_noise((1, 1, *size), seed=1)) * mask
        assert torch.fft.ifft2(spectrum).imag.abs().max() < 1e-12
        found = torch.fft.fft2(scale_noise(band_pass(white_noise((1, 1, *size), seed=1), mask), 0.3))
        assert found[:, :, ~mask].abs().max() < 1e-10


def test_noise_has_the_strength_asked_for() -> None:
    for band in PAPER_BANDS:
        noise = scale_noise(band_pass(white_noise((4, 3, 32, 32), seed=2), band_mask((32, 32), band)), 0.25)
        assert torch.allclose(noise.square().mean((1, 2, 3)).sqrt(), torch.full((4,), 0.25, dtype=torch.float64))


def test_noise_without_strength_changes_nothing_and_noise_of_a_seed_is_the_same_each_time(
    make_alternet: Callable[[str], nn.Module],
) -> None:
    model, digits = make_alternet("CC|CC|CM|CM"), some_digits(40)
    clean = evaluate(model, labelled_batches(digits, 16))

    def noisy(band: Band, amount: float) -> Metrics:
        return evaluate(model, noisy_batches(digits, band, amount=amount, seed=0, batch_size=16))

    for band in PAPER_BANDS:
        silent = noisy(band, 0.0)
        assert silent.accuracy == clean.accuracy
        assert silent.nll == pytest.approx(clean.nll)
    assert noisy(PAPER_BANDS[2], 0.5).nll == noisy(PAPER_BANDS[2], 0.5).nll != pytest.approx(clean.nll)
