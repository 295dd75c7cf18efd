"""Shape or texture: what each variant of an image keeps, against numpy and closed forms."""

from math import cos, pi

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from buildup.diagnostics.analysis import Sizes, Subject
from buildup.diagnostics.figures import Table, draw_figure
from buildup.diagnostics.predictions import evaluate
from buildup.diagnostics.shape import (
    CUTS,
    ImageChange,
    ShapeOrTexture,
    changed_batches,
    high_pass,
    hybrid,
    low_pass,
    partners,
    shuffle_patches,
    variants_of,
)
from buildup.training.data import load_data
from buildup.training.dataset import Dataset

PIXELS = torch.rand(3, 2, 16, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def digits(count: int = 40) -> Dataset:
    return load_data("digits").part(torch.arange(count))


@pytest.mark.parametrize("cut", CUTS)
def test_both_filters_together_are_the_image_and_its_mean(cut: float) -> None:
    both = low_pass(PIXELS, cut) + high_pass(PIXELS, cut)
    assert torch.allclose(both, PIXELS + PIXELS.mean((2, 3), keepdim=True), atol=1e-12)


@pytest.mark.parametrize(("bins", "low"), [(3, True), (4, False), (8, False)])
def test_a_wave_passes_one_filter_alone(bins: int, low: bool) -> None:
    """At 16 pixels, bin 4 is at half of the highest frequency."""
    row = [cos(2 * pi * bins * column / 16) for column in range(16)]
    wave = torch.tensor([row] * 16, dtype=torch.float64)[None, None]
    kept, lost = (low_pass(wave, 0.5), high_pass(wave, 0.5)) if low else (high_pass(wave, 0.5), low_pass(wave, 0.5))
    assert torch.allclose(kept, wave, atol=1e-12)
    assert lost.abs().max() < 1e-12


def test_a_hybrid_has_the_phases_of_one_image_and_the_amplitudes_of_another() -> None:
    own, other = PIXELS[:1], PIXELS[1:2]
    mixed = hybrid(own, other).numpy()
    spectra = [np.fft.fft2(one) for one in (own.numpy(), other.numpy(), mixed)]
    assert np.allclose(np.abs(spectra[2]), np.abs(spectra[1]))
    assert np.allclose(np.exp(1j * np.angle(spectra[2])), np.exp(1j * np.angle(spectra[0])), atol=1e-6)
    assert torch.allclose(hybrid(own, own), own, atol=1e-12)
    # Shifted round the border, an image has other phases, but the same amplitudes.
    assert torch.allclose(hybrid(own, other.roll((3, 5), (2, 3))), hybrid(own, other), atol=1e-12)


@pytest.mark.parametrize("grid", [1, 2, 4, 16])
def test_shuffled_patches_are_those_of_the_image(grid: int) -> None:
    found, side = shuffle_patches(PIXELS, grid, torch.Generator().manual_seed(1)), 16 // grid

    def patches(image: Tensor) -> list[list[float]]:
        cut = [image[:, y : y + side, x : x + side] for y in range(0, 16, side) for x in range(0, 16, side)]
        return sorted(patch.flatten().tolist() for patch in cut)

    for before, after in zip(PIXELS, found, strict=True):
        assert patches(before) == patches(after)
        assert torch.equal(before, after) == (grid == 1)


def test_partners_are_of_another_class_and_of_all_of_them() -> None:
    labels = torch.arange(300) % 3
    found = partners(labels, seed=0)
    assert not (labels[found] == labels).any()
    pairs = {(int(one), int(two)) for one, two in zip(labels, labels[found], strict=True)}
    assert len(pairs) == 6


class Recogniser(nn.Module):
    """Knows images by their phases or by their amplitudes alone: the class of the nearest known image."""

    def __init__(self, known: Tensor, labels: Tensor, phases: bool) -> None:
        super().__init__()
        self.phases, self.labels = phases, labels
        self.known = nn.Parameter(self.features(known))

    def features(self, images: Tensor) -> Tensor:
        spectrum = torch.fft.fft2(images.double())
        spectrum[:, :, 0, 0] = 0  # normalisation changes the mean
        unit = torch.where(spectrum.abs() > 1e-4, spectrum / spectrum.abs().clamp(min=1e-4), 0)
        return torch.view_as_real(unit).flatten(1) if self.phases else spectrum.abs().flatten(1)

    def forward(self, images: Tensor) -> Tensor:
        nearest = torch.cdist(self.features(images), self.known).argmin(1)
        return nn.functional.one_hot(self.labels[nearest], 10).float()


@pytest.mark.parametrize(("phases", "answers"), [(False, (0.0, 100.0)), (True, (100.0, 0.0))])
def test_a_model_of_phases_and_one_of_amplitudes_are_told_apart(phases: bool, answers: tuple[float, float]) -> None:
    images = digits()
    ((known, labels),) = changed_batches(images, ImageChange(name="clean"), 40, 0)
    model = Recogniser(known, labels, phases)
    found = tuple(
        evaluate(model, changed_batches(images, ImageChange(name=name), 16, 0)).accuracy
        for name in ("phase kept", "amplitude kept")
    )
    assert found == answers


def test_variants_fit_the_images_and_go_on_after_a_stop() -> None:
    images = digits(20)
    model = nn.Sequential(nn.Flatten(), nn.Linear(256, 10))
    subject = Subject(
        label="net", model=model, units=(), images=images, weight_decay=0.0, sizes=Sizes(batch_size=8), seed=3
    )
    shape = ShapeOrTexture()
    rows = [row for part in shape.measure(subject, []) for row in part]
    assert len(rows) == shape.work(subject)[0] == 1 + 2 * len(CUTS) + 2 + 3
    assert [row for part in shape.measure(subject, rows[:18]) for row in part] == rows[18:]
    one_class = images.part((images.labels == 0).nonzero().flatten())
    assert {variant.name for variant in variants_of(one_class)} == {
        "clean", "low-passed", "high-passed", "patches shuffled"
    }  # fmt: skip
    figure = draw_figure(shape.figure, [Table(label="net", units=(), rows=rows)])
    assert len(figure.axes) == 3
