"""Which spatial frequencies a unit's maps hold (paper.md 8.3): attention should take high ones away, convolutions add.

Two measures. The paper's is the mean, over images and channels, of the logarithm of the amplitudes along the diagonal,
relative to that of frequency zero. It depends on the size of maps and on their mean, so it compares units of one
resolution. The share of the energy at high frequencies depends on neither.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from buildup.diagnostics.analysis import Measurement, Subject, mean_steps, named
from buildup.diagnostics.figures import Axes, Figure, Row, Rows, Table, depth_colours, panels_of, plot_depth
from buildup.diagnostics.observe import see_maps
from buildup.diagnostics.units import Unit

SMALLEST = 1e-6
"""Added to amplitudes before their logarithm is taken, as in the reference code."""
HIGH = 0.5
"""Frequencies over this share of pi are high."""
ROUNDING = 1e-20
"""Energy below this share of that of frequency zero is what rounding leaves of a constant map."""
LEAST_SIDE = 3
"""Smaller maps have nothing on the diagonal beside frequency zero."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Spectrum:
    """The frequencies of one unit's maps."""

    frequencies: tuple[float, ...]
    """Along the diagonal, as shares of pi. The last is below 1: 0.857 for maps of 7 or 14 px, 0.964 for 56."""
    amplitudes: tuple[float, ...]
    """The mean of the logarithm of each amplitude, less that of frequency zero."""
    high_energy: float
    """Share of the energy, frequency zero apart, at frequencies over pi / 2; about 0.75 in white noise."""
    images: int

    @property
    def high(self) -> float:
        """The paper's one number: the amplitude of the highest frequency on the diagonal."""
        return self.amplitudes[-1]

    @property
    def reference_frequencies(self) -> tuple[float, ...]:
        """The axis on which the paper draws the same values: its last is 1, whatever it is in truth."""
        last = max(1, len(self.amplitudes) - 1)
        return tuple(index / last for index in range(len(self.amplitudes)))


def spectrum(maps: Tensor) -> Spectrum:
    """The spectrum of maps (images x channels x height x width) of at least 3 x 3."""
    return _divided(_sums(maps), maps.shape[2:])


def fourier(model: nn.Module, units: Sequence[Unit], batches: Iterable[Tensor]) -> dict[int, Spectrum]:
    """The spectrum of each unit that gives out maps of at least 3 x 3, by the unit's index."""
    sums: dict[int, Tensor] = {}
    sizes: dict[int, torch.Size] = {}

    def see(unit: Unit, maps: Tensor) -> None:
        if min(maps.shape[2:]) >= LEAST_SIDE:
            sums[unit.index] = sums.get(unit.index, 0) + _sums(maps)
            sizes[unit.index] = maps.shape[2:]

    for images in batches:
        see_maps(model, units, images, see)
    return {index: _divided(total, sizes[index]) for index, total in sorted(sums.items())}


class Frequencies(Measurement):
    """The spectrum of each unit's maps."""

    name = "fourier"
    title = "Frequencies of the maps"
    words = (
        "Amplitudes along the diagonal, relative to frequency zero, and the share of the energy above half of the "
        "highest frequency. A step down at attention means that it takes high frequencies away. Compare steps within "
        "a stage: a lower resolution moves both measures by itself."
    )
    needs_labels = False

    def measure(self, subject: Subject, done: Rows) -> Iterator[Rows]:
        """One row a unit and frequency."""
        found = fourier(subject.model, subject.units, subject.batches())
        yield [
            {
                **named(subject.units[index]),
                "frequency": frequency,
                "log_amplitude": amplitude,
                "high_energy": spectrum.high_energy,
            }
            for index, spectrum in found.items()
            for frequency, amplitude in zip(spectrum.frequencies, spectrum.amplitudes, strict=True)
        ]

    def summary(self, rows: Rows) -> Row:
        """The steps of the highest frequency at each kind."""
        return mean_steps(list({row["unit"]: row for row in rows}.values()), "log_amplitude")

    def figure(self, tables: Sequence[Table]) -> Figure:
        figure, panels = panels_of(tables, 4.6, 3.1, rows=3)
        for number, table in enumerate(tables):
            units: dict[int, list[dict[str, Any]]] = {}
            for row in table.rows:
                units.setdefault(row["unit"], []).append(row)
            curves: Axes = panels[0][number]
            colours = depth_colours(figure, curves, len(units))
            for colour, rows in zip(colours, units.values(), strict=False):
                dashed = "--" if rows[0]["kind"] == "msa" else "-"
                curves.plot(
                    [row["frequency"] for row in rows], [row["log_amplitude"] for row in rows], dashed, color=colour
                )
            curves.set(
                xlabel="frequency (π)", ylabel="Δ log amplitude", title=f"{table.label} (MSA dashed)", xlim=(0, 1)
            )
            ends = [rows[-1] for rows in units.values()]
            plot_depth(panels[1][number], table, "log_amplitude", ends, "Δ log amplitude, highest freq.")
            plot_depth(panels[2][number], table, "high_energy", ends, "energy share over π/2")
        return figure


FOURIER = Frequencies()


def _sums(maps: Tensor) -> Tensor:
    """Images, channels of all of them, share of high energy, and then the logarithms along the diagonal."""
    maps = maps.detach().to(torch.float64 if maps.device.type != "mps" else torch.float32)
    height, width = maps.shape[2:]
    amplitude = torch.fft.fft2(maps).abs()
    steps = _steps(height, width)
    rows, columns = [row for row, _ in steps], [column for _, column in steps]
    diagonal = (amplitude[:, :, rows, columns] + SMALLEST).log().sum((0, 1))

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
    counts = torch.tensor([len(maps), maps.shape[0] * maps.shape[1]], dtype=maps.dtype, device=maps.device)
    return torch.cat([counts, share.sum()[None], diagonal])


def _divided(sums: Tensor, size: Sequence[int]) -> Spectrum:
    images, count, share, *diagonal = sums.tolist()
    return Spectrum(
        frequencies=tuple(2 * index / min(size) for index in range(len(diagonal))),
        amplitudes=tuple((value - diagonal[0]) / count for value in diagonal),
        high_energy=share / count,
        images=round(images),
    )


def _steps(height: int, width: int) -> list[tuple[int, int]]:
    """Bins of the diagonal from frequency zero on; of maps that are not square, those that come next to it."""
    shorter = min(height, width)
    return [
        (round(index * height / shorter), round(index * width / shorter)) for index in range(shorter - shorter // 2)
    ]
