"""What a measurement is and what it is made on: the interface that `buildup analyze` calls for each measurement."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import isnan
from statistics import fmean
from typing import Literal

import torch
from torch import Tensor, nn

from buildup.diagnostics.figures import Figure, Row, Rows, Table
from buildup.diagnostics.units import Unit
from buildup.training.augmentation import normalise
from buildup.training.dataset import Dataset

Batch = tuple[Tensor, Tensor]
"""Normalised images and their target probabilities."""
LabelledBatches = Iterable[tuple[Tensor, Tensor]]
"""Batches of normalised images with their labels."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PaperClaim:
    """The sign of a number in the summaries of a measurement."""

    column: str
    words: str
    """What the number is; with `of_each`, what attention, convolutions or units do if it is as claimed."""
    sign: Literal[-1, 1]
    of_each: str = ""
    """What they do if the sign is the opposite. With it, the claim is about the number of each model; without it, about
    a model with more attention compared with one with less."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """How much is measured. The defaults are the paper's values where it states them and they take less than a day."""

    images: int = 10_000
    """The most validation images, for all measurements but those below."""
    hessian_batches: int = 300
    """Batches of 16 training images: a tenth of CIFAR."""
    landscape_side: int = 21
    """Points on each side of the grid."""
    landscape_images: int = 2048
    """Training images per point."""
    corrupted_images: int = 10_000
    """Images for each of the 75 combinations of kind and severity."""
    batch_size: int = 128


QUICK = Sizes(
    images=512, hessian_batches=4, landscape_side=7, landscape_images=128, corrupted_images=128, batch_size=64
)


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A model and the data that it is measured on."""

    label: str
    series: str = ""
    """The training that it is a phase of; its weights are those after `epoch`."""
    epoch: int | None = None
    model: nn.Module
    """On the device where it is to run."""
    units: tuple[Unit, ...]
    images: Dataset
    """Labelled images that it was not trained on."""
    train_batches: tuple[Batch, ...] = ()
    """Augmented as in training; as many as the requested measurement that needs most of them."""
    train_images: str = ""
    """Which images these batches are of."""
    weight_decay: float
    sizes: Sizes
    seed: int = 0
    """Seed of directions, noise and corruptions."""
    scaling: str = "filter"
    """Whether directions of the landscape are scaled `filter` by filter or `column` by column."""
    decay: str = "squares"
    """What the landscape adds to the cross-entropy: `squares`, `norms` or `none`."""
    corruptions: str | None = None
    """The folder of published corrupted images. Without it, clean images are corrupted here."""
    mc_dropout: int = 0
    """The number of passes of Monte Carlo dropout."""

    def labelled_batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        return labelled_batches(self.images, self.sizes.batch_size)

    @property
    def attention(self) -> float:
        return fmean(unit.kind == "msa" for unit in self.units)

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    def batches(self) -> Iterator[Tensor]:
        """The images without labels, on the device of the model."""
        return (images.to(self.device) for images, _ in self.labelled_batches())

    def spread(self, count: int) -> Dataset:
        """At most `count` of the images, evenly spaced, because some datasets are sorted by class."""
        images = len(self.images.labels)
        return self.images.part(torch.linspace(0, images - 1, min(count, images)).round().long())


class Measurement(ABC):
    """One measurement: what it needs, how it is made, and how it is shown.

    Its values are table rows, which all have the same columns. They are stored as JSON and CSV, and the figure is drawn
    from them alone.
    """

    name: str
    """Its name for `--what` and for its files."""
    title: str
    """The title of its section."""
    caption: str
    """How to read its figure."""
    claims: tuple[PaperClaim, ...] = ()
    """What the paper claims of the numbers in its summaries."""
    needs_labels: bool = True
    """Whether it needs a model with the classes of the images."""
    is_usual: bool = True
    """Whether `--what all` includes it."""

    def train_batches(self, sizes: Sizes) -> int:
        """The number of augmented batches of 16 training images that it needs."""
        return 0

    def check(self, subjects: Sequence[Subject]) -> None:  # noqa: B027, most have nothing to refuse
        """Raise a `RequestError` for a wrong setting, before anything is measured."""

    def obstacle(self, subject: Subject) -> str | None:
        """Why it can't be made on this subject; None where it can. `--what all` leaves it out then."""
        return None

    def notes(self, subject: Subject) -> Iterable[str]:
        """What a reader must know of this subject, such as units that are left out."""
        return ()

    def settings(self, subject: Subject) -> Row:
        """Settings that its values depend on and that no other measurement uses."""
        return {}

    def work(self, subject: Subject) -> tuple[int, int]:
        """The number of parts and the images per part, from which the remaining time is estimated."""
        return 1, len(subject.images.labels)

    @abstractmethod
    def measure(self, subject: Subject, done: Rows) -> Iterator[Rows]:
        """The rows, part by part, without those that an interrupted run has left in `done`."""

    def summary(self, rows: Rows) -> Row:
        """The few numbers that summarise the rows."""
        return {}

    def summaries(self, tables: Mapping[str, Rows]) -> dict[str, Row]:
        """The summary of each model; with several models also their comparison."""
        return {label: self.summary(rows) for label, rows in tables.items()}

    @abstractmethod
    def figure(self, tables: Sequence[Table]) -> Figure:
        """The figure of one model, or of several side by side."""


def labelled_batches(dataset: Dataset, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
    parts = zip(torch.split(dataset.images, batch_size), torch.split(dataset.labels, batch_size), strict=True)
    for images, labels in parts:
        yield normalise(images, dataset.mean, dataset.std), labels


def unit_rows(units: Sequence[Unit]) -> Rows:
    return [
        {
            **unit_columns(unit),
            "subsamples": unit.subsamples,
            "height": unit.size[0] if unit.size else None,
            "width": unit.size[1] if unit.size else None,
            "channels": unit.channels,
        }
        for unit in units
    ]


def unit_columns(unit: Unit) -> Row:
    return {"unit": unit.index, "name": unit.name, "kind": unit.kind, "stage": unit.stage}


def mean_steps(rows: Rows, column: str) -> Row:
    """The mean change of a value at units of each kind, within stages. The paper compares its signs."""
    steps: dict[str, list[float]] = {}
    for before, after in pairwise(rows):
        if after["stage"] == before["stage"] and after["unit"] == before["unit"] + 1:
            steps.setdefault(after["kind"], []).append(after[column] - before[column])
    return {f"mean_step_{kind}": fmean(values) for kind, values in sorted(steps.items())}


def claims_sentence(claims: Sequence[PaperClaim], attention: Mapping[str, float], summaries: Mapping[str, Row]) -> str:
    """What was found, and whether it agrees with the paper; empty if the paper claims nothing.

    Args:
        claims: Those of the measurement.
        attention: The share of attention among the units of each model, in the order in which they are compared.
        summaries: The summary of each model.
    """
    if not claims:
        return ""
    more, less = _pair(attention)
    parts: list[str] = []
    for claim in claims:
        if claim.of_each:
            parts += _signs(claim, {label: summaries[label].get(claim.column) for label in attention})
        elif more and less:
            parts += _comparison(claim, *((label, summaries[label].get(claim.column)) for label in (more, less)))
    if parts:
        text = "; ".join(parts)
        return f"{text[0].upper()}{text[1:]}."
    what = "several units of one stage" if claims[0].of_each else "a model with more attention and one with less"
    return f"The paper's claim is about {what}, so these numbers can't test it."


def _pair(attention: Mapping[str, float]) -> tuple[str, str]:
    """The first model and the first one with another share of attention, the larger share first."""
    first = next(iter(attention))
    other = next((label for label, share in attention.items() if share != attention[first]), "")
    return (first, other) if other and attention[first] > attention[other] else (other, first)


def _comparison(claim: PaperClaim, more: tuple[str, float | None], less: tuple[str, float | None]) -> Iterator[str]:
    (attentive, value), (plain, other) = more, less
    if value is None or other is None or isnan(value) or isnan(other):
        return
    found = "lower" if value < other else "higher" if value > other else "the same"
    claimed = "lower" if claim.sign < 0 else "higher"
    agrees = "as in the paper" if found == claimed else f"and in the paper {claimed}"
    than = "and" if value == other else "than"
    yield f"{claim.words} is {found} in {attentive} {than} in {plain} ({value:.3g} against {other:.3g}), {agrees}"


def _signs(claim: PaperClaim, values: Mapping[str, float | None]) -> Iterator[str]:
    known = {label: value for label, value in values.items() if value and not isnan(value)}
    for sign, words, agrees in (
        (claim.sign, claim.words, "as in the paper"),
        (-claim.sign, claim.of_each, "unlike in the paper"),
    ):
        group = {label: value for label, value in known.items() if value * sign > 0}
        if group:
            shown = ", ".join(f"{value:+.3g} in {label}" for label, value in group.items())
            yield f"{words} ({shown}), {agrees}"
