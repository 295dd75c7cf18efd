"""The feature maps of units: their spatial frequencies and their spatial variance.

Attention should reduce high frequencies and variance, convolutions should increase them. There are two measures of
frequencies. The paper's is the logarithm of the amplitudes along the diagonal, averaged over images and channels, minus
that of frequency zero. It depends on the size and the mean of maps, so compare only units of one resolution. The share
of the energy at high frequencies depends on neither. The variance depends on scale: it is four times as large for maps
twice as strong. Compare a unit with its neighbours only.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter

import torch
from torch import Tensor, nn

from buildup.diagnostics.analysis import Measurement, PaperClaim, Subject, mean_steps, unit_columns
from buildup.diagnostics.figures import Figure, Row, Rows, Table, depth_colours, depth_figure, panels_of, plot_depth
from buildup.diagnostics.units import Unit, watch_units

SMALLEST = 1e-6
"""Added to amplitudes before the logarithm, as in the reference code."""
HIGH = 0.5
"""Frequencies above this share of pi are high."""
ROUNDING = 1e-20
"""Energy below this share of that of frequency zero is the rounding error of a constant map."""
LEAST_SIDE = 3
"""Smaller maps have only frequency zero on the diagonal."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Spectrum:
    """The frequencies of one unit's maps."""

    frequencies: tuple[float, ...]
    """Along the diagonal, as shares of pi. The last is below 1: 0.5 for maps of 4 px, 0.857 for 7 or 14, 0.964 for
    56."""
    amplitudes: tuple[float, ...]
    """The mean logarithm of each amplitude minus that of frequency zero."""
    high_energy: float
    """The share of the energy above pi / 2, without frequency zero. About 0.75 for white noise."""

    @property
    def high(self) -> float:
        """The amplitude of the highest frequency on the diagonal, the number that the paper reports."""
        return self.amplitudes[-1]


def spectrum(maps: Tensor) -> Spectrum:
    """The spectrum of maps (images x channels x height x width) of at least 3 x 3."""
    return _spectrum_of(_frequencies_by_image(maps).mean(0), maps.shape[2:])


def unit_spectra(model: nn.Module, units: Sequence[Unit], batches: Iterable[Tensor]) -> dict[int, Spectrum]:
    """The spectrum of each unit with maps of at least 3 x 3, by the index of the unit."""
    sizes = {unit.index: unit.size for unit in units if unit.size and min(unit.size) >= LEAST_SIDE}
    found = _means(model, [unit for unit in units if unit.index in sizes], batches, _frequencies_by_image)
    return {index: _spectrum_of(mean, sizes[index]) for index, mean in found.items()}


def spatial_variance(maps: Tensor) -> float:
    """The unbiased variance over the pixels of a map, averaged over images and channels. A map has 2 pixels or more."""
    return _variance_by_image(maps).mean().item()


def unit_variances(model: nn.Module, units: Sequence[Unit], batches: Iterable[Tensor]) -> dict[int, float]:
    """The spatial variance of each unit with maps of at least two pixels, by the index of the unit."""
    wide = [unit for unit in units if unit.layout.pixels > 1]
    return {index: mean.item() for index, mean in _means(model, wide, batches, _variance_by_image).items()}


def _step_claims(what: str) -> tuple[PaperClaim, ...]:
    """The paper's claims of the mean steps: attention lowers, convolutions and MLPs raise."""
    lowers, raises = f"lowers {what}", f"raises {what}"
    names = {"msa": "attention", "conv": "a convolution", "mlp": "an MLP"}
    return tuple(
        PaperClaim(
            column=f"mean_step_{kind}",
            words=f"{name} {lowers if kind == 'msa' else raises}",
            sign=-1 if kind == "msa" else 1,
            of_each=f"{name} {raises if kind == 'msa' else lowers}",
        )
        for kind, name in names.items()
    )


class Variance(Measurement):
    """The spatial variance of each unit's maps. One row per unit."""

    name = "variance"
    title = "Variance over space"
    caption = "Variance of maps over their pixels. A step down at attention means that it averages."
    claims = _step_claims("the variance")
    needs_labels = False

    def measure(self, subject: Subject, done: Rows) -> Iterator[Rows]:
        found = unit_variances(subject.model, subject.units, subject.batches())
        yield [{**unit_columns(subject.units[index]), "variance": value} for index, value in found.items()]

    def summary(self, rows: Rows) -> Row:
        return mean_steps(rows, "variance")

    def figure(self, tables: Sequence[Table]) -> Figure:
        return depth_figure(tables, "variance", "variance over space")


class Frequencies(Measurement):
    """The spectrum of each unit's maps. One row per unit and frequency."""

    name = "fourier"
    title = "Frequencies of the maps"
    caption = (
        "Amplitudes along the diagonal, relative to frequency zero, and the share of the energy above half of the "
        "highest frequency. The highest frequency on the diagonal depends on the size of the maps: the figure says it "
        "above each stage. A step down at attention means that it reduces high frequencies. Compare steps within a "
        "stage, because a lower resolution changes both measures."
    )
    claims = _step_claims("high frequencies")
    needs_labels = False

    def notes(self, subject: Subject) -> Iterator[str]:
        sizes = [unit.size for unit in subject.units if unit.size and min(unit.size) < LEAST_SIDE]
        if sizes:
            shown = ", ".join(f"{height} x {width}" for height, width in dict.fromkeys(sizes))
            yield f"fourier leaves out units with maps of {shown} ({len(sizes)}); a frequency above zero needs 3 x 3"

    def measure(self, subject: Subject, done: Rows) -> Iterator[Rows]:
        found = unit_spectra(subject.model, subject.units, subject.batches())
        yield [
            {
                **unit_columns(subject.units[index]),
                "frequency": frequency,
                "log_amplitude": amplitude,
                "high_energy": spectrum.high_energy,
            }
            for index, spectrum in found.items()
            for frequency, amplitude in zip(spectrum.frequencies, spectrum.amplitudes, strict=True)
        ]

    def summary(self, rows: Rows) -> Row:
        return mean_steps(list({row["unit"]: row for row in rows}.values()), "log_amplitude")

    def figure(self, tables: Sequence[Table]) -> Figure:
        figure, panels = panels_of(tables, 4.6, 3.1, rows=3)
        for number, table in enumerate(tables):
            units = [list(rows) for _, rows in groupby(table.rows, key=itemgetter("unit"))]
            curves = panels[0][number]
            colours = depth_colours(figure, curves, len(units))
            for colour, rows in zip(colours, units, strict=False):
                dashed = "--" if rows[0]["kind"] == "msa" else "-"
                curves.plot(
                    [row["frequency"] for row in rows], [row["log_amplitude"] for row in rows], dashed, color=colour
                )
            curves.set(
                xlabel="frequency (π)", ylabel="Δ log amplitude", title=f"{table.label} (MSA dashed)", xlim=(0, 1)
            )
            ends = [rows[-1] for rows in units]
            plot_depth(panels[1][number], table, "log_amplitude", ends, "Δ log amplitude, highest freq.")
            # The frequency over the units that have it as their highest.
            for frequency, same in groupby(ends, key=lambda row: row["frequency"]):
                having = [row["unit"] for row in same]
                place = table.depth((having[0] + having[-1]) / 2)
                above = panels[1][number].get_xaxis_transform()
                panels[1][number].text(place, 1.01, f"{frequency:.2g}π", transform=above, fontsize=7, ha="center")
            panels[1][number].set_title(table.label, pad=14)
            plot_depth(panels[2][number], table, "high_energy", ends, "energy share over π/2")
        return figure


def _means(
    model: nn.Module, units: Sequence[Unit], batches: Iterable[Tensor], by_image: Callable[[Tensor], Tensor]
) -> dict[int, Tensor]:
    """The mean over all images of what `by_image` gives for each of them, by the index of a unit with maps."""
    found: dict[int, list[Tensor]] = {unit.index: [] for unit in units}

    def add(unit: Unit, output: Tensor) -> None:
        maps = unit.as_map(output)
        assert maps is not None
        found[unit.index].append(by_image(maps))

    for images in batches:
        watch_units(model, units, images, add)
    return {index: torch.cat(parts).mean(0) for index, parts in found.items()}


def _frequencies_by_image(maps: Tensor) -> Tensor:
    """The share of high energy and the log amplitudes of each image, as means over its channels."""
    maps = maps.double()
    height, width = maps.shape[2:]
    shorter = min(height, width)
    # Bins of the diagonal from frequency zero on; for maps that are not square, the nearest ones.
    steps = range(shorter - shorter // 2)
    rows, columns = ([round(index * side / shorter) for index in steps] for side in (height, width))
    amplitude = torch.fft.fft2(maps).abs()
    diagonal = (amplitude[:, :, rows, columns] + SMALLEST).log().mean(1)

    energy = amplitude.square()
    rounding = energy[:, :, 0, 0] * ROUNDING
    energy[:, :, 0, 0] = 0
    vertical, horizontal = (torch.fft.fftfreq(side, device=maps.device).abs() * 2 for side in (height, width))
    frequency = torch.maximum(vertical[:, None], horizontal)
    # The bins at the limit count half: white noise then has 0.73 to 0.76 at even sizes, 0.83 at 7.
    high = (frequency > HIGH).to(maps.dtype) + (frequency == HIGH).to(maps.dtype) / 2
    whole = energy.sum((2, 3))
    share = torch.where(
        whole > rounding, (energy * high).sum((2, 3)) / whole.clamp(min=torch.finfo(whole.dtype).tiny), 0
    )
    return torch.cat([share.mean(1, keepdim=True), diagonal], dim=1)


def _spectrum_of(mean: Tensor, size: Sequence[int]) -> Spectrum:
    share, *diagonal = mean.tolist()
    return Spectrum(
        frequencies=tuple(2 * index / min(size) for index in range(len(diagonal))),
        amplitudes=tuple(value - diagonal[0] for value in diagonal),
        high_energy=share,
    )


def _variance_by_image(maps: Tensor) -> Tensor:
    return maps.double().flatten(2).var(2, correction=1).mean(1)
