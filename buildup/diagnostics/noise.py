"""Which frequencies of an image a model relies on (paper.md 8.7): its accuracy under noise of one band at a time.

Noise is drawn once and filtered for each band, is added to pixels from 0 to 1 before they are normalised, and is not
clamped, so that what reaches the model is the band and nothing else.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from math import floor, pi
from typing import Literal

import torch
from torch import Tensor, nn

from buildup.diagnostics.analysis import Measurement, Subject
from buildup.diagnostics.figures import COLOURS, SHAPES, Axes, Figure, Row, Rows, Table, panels_of
from buildup.diagnostics.predictions import labelled, measured
from buildup.training.dataset import Dataset
from buildup.training.metrics import Metrics

Shape = Literal["square", "radial"]
Strength = Literal["rms", "pixel"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Band:
    """Frequencies from `low` up to, but without, `high`, as shares of pi; a square band up to 1 includes 1."""

    low: float
    high: float

    @property
    def middle(self) -> float:
        """Where it is drawn."""
        return (self.low + self.high) / 2


@dataclass(frozen=True, slots=True, kw_only=True)
class BandNoise:
    """What noise of one band did."""

    band: Band
    metrics: Metrics
    drop: float
    """Points of accuracy lost; negative where noise helped."""


PAPER_BANDS = tuple(Band(low=(2 * step - 1) / 20, high=(2 * step + 1) / 20) for step in range(1, 10))
"""Around 0.1 to 0.9 pi, each 0.1 pi wide."""


def band_mask(size: tuple[int, int], band: Band, shape: Shape = "square") -> Tensor:
    """Which bins of `fft2` are in a band: as many at a frequency as at its negative, so filtered noise is real."""
    vertical, horizontal = (torch.fft.fftfreq(side, dtype=torch.float64).abs() * 2 for side in size)
    if shape == "square":
        frequency = torch.maximum(vertical[:, None], horizontal)
    else:
        frequency = (vertical.square()[:, None] + horizontal.square()).sqrt()
    # Bins at a limit belong to the band above it, whatever rounding did to either.
    inside = (frequency >= band.low - 1e-9) & (frequency < band.high - 1e-9)
    return inside | (frequency >= 1 - 1e-9) if shape == "square" and band.high >= 1 > band.low else inside


def reference_mask(size: int, frequency: float, half_width: float = 0.2) -> Tensor:
    """The ring of the reference code, for old figures: squares of even sides, so it is half a bin off its centre.

    Args:
        size: Side of the images, even.
        frequency: In radians.
        half_width: In radians; the code's own 0.2 makes bands 0.127 pi wide, and not 0.1 as the paper says.
    """
    outer, inner = (floor(max(0.0, frequency + side * half_width) * size / (2 * pi)) for side in (1, -1))
    mask = torch.zeros(size, size, dtype=torch.bool)
    middle = size // 2
    mask[middle - outer : middle + outer, middle - outer : middle + outer] = True
    mask[middle - inner : middle + inner, middle - inner : middle + inner] = False
    shifted: Tensor = torch.fft.ifftshift(mask)
    return shifted


def filtered(noise: Tensor, mask: Tensor) -> Tensor:
    """The part of noise (... x height x width) in a band."""
    part: Tensor = torch.fft.ifft2(torch.fft.fft2(noise.double()) * mask.to(noise.device)).real
    return part


def draw(shape: Sequence[int], seed: int, *, sign: bool = False) -> Tensor:
    """Noise of deviation 1, drawn on the CPU; with `sign` of values 1 and -1, as in the reference code."""
    noise = torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return noise.sign() if sign else noise


def scaled(noise: Tensor, amount: float, strength: Strength) -> Tensor:
    """Filtered noise of a strength: of root mean square `amount` in each image, or as `amount` times it came."""
    if strength == "pixel":
        return noise * amount
    spread = noise.square().mean((-3, -2, -1), keepdim=True).sqrt()
    return torch.where(spread > 0, noise * amount / spread.clamp(min=torch.finfo(noise.dtype).tiny), 0)


Noisy = Callable[[int, int], Tensor]
"""From the number of a batch and its images to their noise."""


def band_noise(
    model: nn.Module,
    dataset: Dataset,
    *,
    bands: Sequence[Band] = PAPER_BANDS,
    amount: float = 0.1,
    strength: Strength = "rms",
    shape: Shape = "square",
    sign: bool = False,
    seed: int = 0,
    batch_size: int = 256,
) -> Iterator[BandNoise]:
    """A model's accuracy under noise of each band, one after the other, for images with labels.

    Args:
        model: It runs in evaluation mode, on its own device.
        dataset: What is measured; all of its images.
        bands: Those of the paper unless others are given. A band without a bin at this size changes nothing.
        amount: For pixels from 0 to 1.
        strength: With `rms` each band has the same energy; with `pixel` a wide one has more than a narrow one, as in
            the paper, which mixes frequency with energy.
        shape: Bands of equal max(|fx|, |fy|), or of equal distance from zero.
        sign: Filter signs instead of Gaussian values.
        seed: Of the noise, which is the same for all bands and models.
        batch_size: Images at a time.
    """
    size = (dataset.images.shape[2], dataset.images.shape[3])
    clean = measured(model, _batches(dataset, None, batch_size))
    for band in bands:
        mask = band_mask(size, band, shape)

        def noisy(number: int, count: int, mask: Tensor = mask) -> Tensor:
            noise = draw((count, dataset.channels, *size), seed + number, sign=sign)
            return scaled(filtered(noise, mask), amount, strength)

        found = measured(model, _batches(dataset, noisy, batch_size))
        yield BandNoise(band=band, metrics=found, drop=clean.accuracy - found.accuracy)


class NoiseBands(Measurement):
    """The accuracy under noise of each band."""

    name = "noise"
    title = "Accuracy under noise of one frequency band"
    words = "Noise of the same strength in each band. Who loses most at high frequencies relies on texture."

    def work(self, subject: Subject) -> tuple[int, int]:
        """A part a band."""
        return len(_bands(subject)), len(subject.images.labels)

    def measure(self, subject: Subject, done: Rows) -> Iterator[Rows]:
        """One row a band."""
        left = _bands(subject)[len(done) :]
        size = subject.sizes.batch_size
        for found in band_noise(subject.model, subject.images, bands=left, seed=subject.seed, batch_size=size):
            values = {"accuracy": found.metrics.accuracy, "drop": found.drop, "nll": found.metrics.nll}
            yield [{"low": found.band.low, "high": found.band.high, **values}]

    def summary(self, rows: Rows) -> Row:
        """The band that costs most."""
        worst = max(rows, key=lambda row: row["drop"])
        return {"worst_frequency": (worst["low"] + worst["high"]) / 2, "worst_drop": worst["drop"]}

    def figure(self, tables: Sequence[Table]) -> Figure:
        figure, panels = panels_of(tables[:1], 4.6, 3.1)
        axes: Axes = panels[0][0]
        for table, colour, marker in zip(tables, COLOURS, SHAPES, strict=False):
            middles = [(row["low"] + row["high"]) / 2 for row in table.rows]
            axes.plot(
                middles, [-row["drop"] for row in table.rows], f"{marker}-", color=colour, ms=4, label=table.label
            )
        axes.axhline(0, color="black", lw=0.8)
        axes.set(xlabel="frequency of the noise (π)", ylabel="Δ accuracy (points)", xlim=(0, 1))
        axes.legend(fontsize=7)
        return figure


NOISE = NoiseBands()


def _bands(subject: Subject) -> tuple[Band, ...]:
    """The paper's bands, without those that images of this size have no frequency in."""
    height, width = subject.images.images.shape[2:]
    return tuple(band for band in PAPER_BANDS if band_mask((height, width), band).any())


def _batches(dataset: Dataset, noisy: Noisy | None, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
    spread = torch.tensor(dataset.std)[:, None, None]
    for number, (inputs, labels) in enumerate(labelled(dataset, batch_size)):
        yield (inputs if noisy is None else inputs + noisy(number, len(inputs)).float() / spread), labels
