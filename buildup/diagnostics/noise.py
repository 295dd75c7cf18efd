"""The frequencies that a model relies on: its accuracy under noise of one frequency band at a time.

Noise is drawn once and filtered for each band. It is added to pixels from 0 to 1 before normalisation. The sum is
not clamped, so the model sees noise of that band only.
"""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from statistics import fmean

import torch
from torch import Tensor

from buildup.diagnostics.analysis import Measurement, PaperClaim, Subject, labelled_batches
from buildup.diagnostics.figures import Figure, Row, Rows, Table, looks_of, panels_of
from buildup.diagnostics.predictions import evaluate
from buildup.training.dataset import Dataset


@dataclass(frozen=True, slots=True, kw_only=True)
class Band:
    """Frequencies max(|fx|, |fy|) from `low` up to, but without, `high`, as shares of pi. A band up to 1 includes 1."""

    low: float
    high: float


PAPER_BANDS = tuple(Band(low=(2 * step - 1) / 20, high=(2 * step + 1) / 20) for step in range(1, 10))
"""Around 0.1 to 0.9 pi, each 0.1 pi wide."""


def band_mask(size: Sequence[int], band: Band) -> Tensor:
    """The bins of `fft2` in a band. The mask is symmetric, so filtered noise is real."""
    vertical, horizontal = (torch.fft.fftfreq(side, dtype=torch.float64).abs() * 2 for side in size)
    frequency = torch.maximum(vertical[:, None], horizontal)
    # Bins at a limit belong to the band above it, whatever the rounding error of either.
    inside = (frequency >= band.low - 1e-9) & (frequency < band.high - 1e-9)
    return inside | (frequency >= 1 - 1e-9) if band.high >= 1 > band.low else inside


def band_pass(noise: Tensor, mask: Tensor) -> Tensor:
    part: Tensor = torch.fft.ifft2(torch.fft.fft2(noise.double()) * mask.to(noise.device)).real
    return part


def white_noise(shape: Sequence[int], seed: int) -> Tensor:
    """Gaussian noise of deviation 1, drawn on the CPU."""
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def scale_noise(noise: Tensor, amount: float) -> Tensor:
    """Filtered noise, scaled to root mean square `amount` in each image, so that each band has the same energy."""
    spread = noise.square().mean((-3, -2, -1), keepdim=True).sqrt()
    return torch.where(spread > 0, noise * amount / spread.clamp(min=torch.finfo(noise.dtype).tiny), 0)


def noisy_batches(
    dataset: Dataset, band: Band, *, amount: float = 0.1, seed: int, batch_size: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches with noise of one band. A band without a bin at this image size changes nothing.

    The amount is the root mean square of the noise, for pixels from 0 to 1. The noise of a seed is the same for all
    bands and models.
    """
    mask, spread = band_mask(dataset.images.shape[2:], band), torch.tensor(dataset.std)[:, None, None]
    for number, (inputs, labels) in enumerate(labelled_batches(dataset, batch_size)):
        noise = white_noise(inputs.shape, seed + number)
        yield inputs + scale_noise(band_pass(noise, mask), amount).float() / spread, labels


class NoiseBands(Measurement):
    """The accuracy under noise of each band. One row per band."""

    name = "noise"
    title = "Accuracy under noise of one frequency band"
    caption = "Noise of the same strength in each band. A model that loses most at high frequencies relies on texture."

    claims = (
        PaperClaim(
            column="high_minus_low_drop",
            words="the accuracy lost to high frequencies, less that lost to low ones,",
            sign=-1,
        ),
    )

    def work(self, subject: Subject) -> tuple[int, int]:
        return len(_bands(subject)), len(subject.images.labels)

    def measure(self, subject: Subject, done: Rows) -> Iterator[Rows]:
        clean = evaluate(subject.model, subject.labelled_batches()).accuracy
        for band in _bands(subject)[len(done) :]:
            batches = noisy_batches(subject.images, band, seed=subject.seed, batch_size=subject.sizes.batch_size)
            noisy = evaluate(subject.model, batches)
            yield [{**asdict(band), "accuracy": noisy.accuracy, "drop": clean - noisy.accuracy, "nll": noisy.nll}]

    def summary(self, rows: Rows) -> Row:
        worst = max(rows, key=lambda row: row["drop"])
        middles = [((row["low"] + row["high"]) / 2, row["drop"]) for row in rows]
        low, high = ([drop for at, drop in middles if (at > 0.5) == above] for above in (False, True))
        between = {"high_minus_low_drop": fmean(high) - fmean(low)} if low and high else {}
        return {"worst_frequency": (worst["low"] + worst["high"]) / 2, "worst_drop": worst["drop"], **between}

    def figure(self, tables: Sequence[Table]) -> Figure:
        figure, panels = panels_of(tables[:1], 4.6, 3.1)
        axes = panels[0][0]
        for table, colour, marker in looks_of(tables):
            middles = [(row["low"] + row["high"]) / 2 for row in table.rows]
            axes.plot(
                middles, [-row["drop"] for row in table.rows], f"{marker}-", color=colour, ms=4, label=table.label
            )
        axes.axhline(0, color="black", lw=0.8)
        axes.set(xlabel="frequency of the noise (π)", ylabel="Δ accuracy (points)", xlim=(0, 1))
        axes.legend(fontsize=7)
        return figure


def _bands(subject: Subject) -> tuple[Band, ...]:
    """The bands of the paper that contain a frequency of images of this size."""
    return tuple(band for band in PAPER_BANDS if band_mask(subject.images.images.shape[2:], band).any())
