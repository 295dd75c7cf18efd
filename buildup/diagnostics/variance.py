"""How much a unit's maps vary over space (paper.md 8.4): attention averages, so its units should lower it.

It is not free of scale: four times as much for maps twice as strong. So it compares a unit with its neighbours only.
"""

from collections.abc import Iterable, Iterator, Sequence

from torch import Tensor, nn

from buildup.diagnostics.analysis import Measurement, Subject, mean_steps, named
from buildup.diagnostics.figures import Figure, Row, Rows, Table, depth_figure
from buildup.diagnostics.observe import see_maps
from buildup.diagnostics.units import Unit


def spatial_variance(maps: Tensor) -> float:
    """The unbiased variance over the places of a map, mean over images and channels, of maps of at least two places."""
    return _total(maps) / (maps.shape[0] * maps.shape[1])


def variance(model: nn.Module, units: Sequence[Unit], batches: Iterable[Tensor]) -> dict[int, float]:
    """The spatial variance of each unit that gives out maps of at least two places, by the unit's index."""
    totals: dict[int, float] = {}
    counts: dict[int, int] = {}

    def see(unit: Unit, maps: Tensor) -> None:
        if maps.shape[2] * maps.shape[3] > 1:
            totals[unit.index] = totals.get(unit.index, 0.0) + _total(maps)
            counts[unit.index] = counts.get(unit.index, 0) + maps.shape[0] * maps.shape[1]

    for images in batches:
        see_maps(model, units, images, see)
    return {index: total / counts[index] for index, total in sorted(totals.items())}


class Variance(Measurement):
    """The spatial variance of each unit's maps."""

    name = "variance"
    title = "Variance over space"
    words = "How much maps vary from place to place. A step down at attention means that it averages."
    needs_labels = False

    def measure(self, subject: Subject, done: Rows) -> Iterator[Rows]:
        """One row a unit."""
        found = variance(subject.model, subject.units, subject.batches())
        yield [{**named(subject.units[index]), "variance": value} for index, value in found.items()]

    def summary(self, rows: Rows) -> Row:
        """The steps at each kind."""
        return mean_steps(rows, "variance")

    def figure(self, tables: Sequence[Table]) -> Figure:
        return depth_figure(tables, "variance", "variance over space")


VARIANCE = Variance()


def _total(maps: Tensor) -> float:
    places = maps.detach().float() if maps.device.type == "mps" else maps.detach().double()
    return places.flatten(2).var(2, correction=1).sum().item()
