"""What a measurement is, what it is made on, and how it is found by name: what `buildup analyze` loops over."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import fmean

from torch import Tensor, nn

from buildup.diagnostics.figures import Figure, Row, Rows, Table
from buildup.diagnostics.predictions import labelled
from buildup.diagnostics.registry import registered
from buildup.diagnostics.units import Unit
from buildup.errors import RequestError, unknown
from buildup.training.dataset import Dataset

Batch = tuple[Tensor, Tensor]
"""Normalised images and the probabilities that a model should give."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """How much is measured. The usual values are the paper's, where a paper says them and a day suffices."""

    images: int = 10_000
    """Validation images at most, for all but those below."""
    hessian_batches: int = 300
    """Of 16 training images each: a tenth of CIFAR."""
    landscape_side: int = 21
    """Points of the grid on each side."""
    landscape_images: int = 2048
    """Training images of each point."""
    corrupted_images: int = 10_000
    """Of each of the 75 kinds and severities."""
    batch_size: int = 128


QUICK = Sizes(
    images=512, hessian_batches=4, landscape_side=7, landscape_images=128, corrupted_images=128, batch_size=64
)


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A model with what it is measured on."""

    label: str
    model: nn.Module
    """On the device where it is to run."""
    units: tuple[Unit, ...]
    images: Dataset
    """Labelled images that it was not trained on."""
    train_batches: tuple[Batch, ...] = ()
    """Augmented as in a training, as many as the hungriest of the measurements asked for needs."""
    weight_decay: float
    sizes: Sizes
    seed: int = 0
    """Of directions, noise and corruptions."""
    restate: bool = False
    """Whether batch norms get new statistics at each point of the landscape."""
    corruptions: str | None = None
    """The folder of published corrupted images; without it some of its own are corrupted."""
    mc_dropout: int = 0
    """Passes whose predictions are averaged, values being dropped in each."""

    def labelled(self) -> Iterator[tuple[Tensor, Tensor]]:
        """The images in batches, normalised, with their labels."""
        return labelled(self.images, self.sizes.batch_size)

    def batches(self) -> Iterator[Tensor]:
        """The images alone, where the model is."""
        device = next(self.model.parameters()).device
        return (images.to(device) for images, _ in self.labelled())


class Measurement(ABC):
    """One measurement: what it needs, how it is made, and how it is shown.

    Its values are the rows of a table, which all have the same columns: they are what the JSON file holds and the lines
    of the CSV file, and the figure is drawn from them alone.
    """

    name: str
    """What `--what` calls it; also that of its files."""
    title: str
    """Of its section on the page."""
    words: str
    """How its figure is read."""
    needs_labels: bool = True
    """Whether it needs a model that tells the classes of the images apart."""
    is_usual: bool = True
    """Whether `--what all` includes it."""

    def train_batches(self, sizes: Sizes) -> int:
        """How many augmented batches of 16 training images it needs."""
        return 0

    def check(self, subjects: Sequence[Subject]) -> None:  # noqa: B027, most have nothing to refuse
        """Refuse what can't be measured by a `RequestError`, before anything is measured."""

    def settings(self, subject: Subject) -> Row:
        """What its values depend on and those of all others do not."""
        return {}

    def work(self, subject: Subject) -> tuple[int, int]:
        """In how many parts it comes and how many images the model sees for each, from which its time is estimated."""
        return 1, len(subject.images.labels)

    @abstractmethod
    def measure(self, subject: Subject, done: Rows) -> Iterator[Rows]:
        """The rows in parts, as they come, without those that an earlier, interrupted run left."""

    def summary(self, rows: Rows) -> Row:
        """The few numbers that it comes down to."""
        return {}

    def summaries(self, tables: Mapping[str, Rows]) -> dict[str, Row]:
        """The few numbers of each model; with several, also how they compare."""
        return {label: self.summary(rows) for label, rows in tables.items()}

    @abstractmethod
    def figure(self, tables: Sequence[Table]) -> Figure:
        """The figure of one model, or of several side by side."""


def find_measurements(names: Sequence[str] | None = None) -> list[Measurement]:
    """The measurements of these names, in their order; without names the usual ones."""
    known = registered()
    if problems := [unknown("measurement", name, ["all", *known]) for name in names or () if name not in known]:
        raise RequestError(*problems)
    found = []
    for name in known if names is None else names:
        point = known[name]
        try:
            measurement = point.load()
        except (AttributeError, ImportError) as error:
            raise RequestError(f"The measurement {name!r} ({point.value}) can't be loaded: {error}") from error
        if not isinstance(measurement, Measurement) or measurement.name != name:
            raise RequestError(f"{point.value} is no buildup.diagnostics.analysis.Measurement of the name {name!r}.")
        found.append(measurement)
    return found if names is not None else [measurement for measurement in found if measurement.is_usual]


def unit_rows(units: Sequence[Unit]) -> Rows:
    """What a model was taken apart into."""
    return [
        {
            **named(unit),
            "subsamples": unit.subsamples,
            "height": unit.size[0] if unit.size else None,
            "width": unit.size[1] if unit.size else None,
            "channels": unit.channels,
        }
        for unit in units
    ]


def named(unit: Unit) -> Row:
    """The columns that tell of which unit a row is."""
    return {"unit": unit.index, "name": unit.name, "kind": unit.kind, "stage": unit.stage}


def mean_steps(rows: Rows, column: str) -> Row:
    """The mean step of a value at units of each kind, within stages: the sign is what the paper speaks of."""
    steps: dict[str, list[float]] = {}
    for before, after in pairwise(rows):
        if after["stage"] == before["stage"] and after["unit"] == before["unit"] + 1:
            steps.setdefault(after["kind"], []).append(after[column] - before[column])
    return {f"mean_step_{kind}": fmean(values) for kind, values in sorted(steps.items())}
