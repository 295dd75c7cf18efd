"""Shape or texture: the accuracy on images that keep one of them better than the other.

All images are made from pixels from 0 to 1, before normalisation, and are not clamped. Frequencies are max(|fx|, |fy|)
as shares of pi.

- low-passed at f: only frequencies below f are kept. Outlines stay, fine texture does not.
- high-passed at f: only frequencies of f and above are kept, and the mean of each channel.
- phase kept: the phases of an image with the amplitudes of an image of another class, labelled as the first. Edges and
  their places are in the phases.
- amplitude kept: the same images, labelled as the second. Amplitudes hold how much there is of each frequency and
  direction, but not where.
- patches shuffled: the image is cut into g x g patches, which are put into random order. What is inside of patches
  stays, the shape of the whole does not.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import torch
from torch import Tensor

from buildup.diagnostics.analysis import LabelledBatches, Measurement, Subject
from buildup.diagnostics.figures import Figure, Row, Rows, Table, looks_of, plot_points
from buildup.diagnostics.noise import Band, band_mask, band_pass
from buildup.diagnostics.predictions import evaluate
from buildup.training.dataset import Dataset

CUTS = (0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8)
"""Where images are low-passed and high-passed, as shares of pi."""
GRIDS = (2, 4, 8)
"""Patches on a side; those that divide the images."""
HYBRIDS = ("phase kept", "amplitude kept")
"""Variants that need images of two classes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageChange:
    name: str
    level: float = 0.0
    """The cut, or the patches on a side; 0 where there is none."""


def low_pass(pixels: Tensor, cut: float) -> Tensor:
    return band_pass(pixels, band_mask(pixels.shape[-2:], Band(low=0.0, high=cut)))


def high_pass(pixels: Tensor, cut: float) -> Tensor:
    """Images of only the frequencies from a cut on, and their mean."""
    kept = ~band_mask(pixels.shape[-2:], Band(low=0.0, high=cut))
    kept[0, 0] = True
    return band_pass(pixels, kept)


def hybrid(phases: Tensor, amplitudes: Tensor) -> Tensor:
    own, other = torch.fft.fft2(phases.double()), torch.fft.fft2(amplitudes.double())
    mixed: Tensor = torch.fft.ifft2(torch.polar(other.abs(), own.angle())).real
    return mixed


def shuffle_patches(pixels: Tensor, grid: int, generator: torch.Generator) -> Tensor:
    """Images (images x channels x height x width) of grid x grid patches, each in a random order of its own."""
    count, channels, height, width = pixels.shape
    sides = (height // grid, width // grid)
    patches = pixels.unfold(2, sides[0], sides[0]).unfold(3, sides[1], sides[1]).flatten(2, 3)
    order = torch.rand(count, grid * grid, generator=generator).argsort(1)
    moved = patches.gather(2, order[:, None, :, None, None].expand_as(patches))
    rows = moved.reshape(count, channels, grid, grid, *sides).permute(0, 1, 2, 4, 3, 5)
    return rows.reshape(count, channels, height, width)


def partners(labels: Tensor, seed: int) -> Tensor:
    """The index of a random image of another class for each image; there are at least two classes."""
    generator = torch.Generator().manual_seed(seed)
    found = torch.randint(len(labels), labels.shape, generator=generator)
    while (same := labels[found] == labels).any():
        found[same] = torch.randint(len(labels), (int(same.sum()),), generator=generator)
    return found


def variants_of(images: Dataset) -> tuple[ImageChange, ...]:
    sides = images.images.shape[2:]
    hybrids = HYBRIDS if len(torch.unique(images.labels)) > 1 else ()
    return (
        ImageChange(name="clean"),
        *(ImageChange(name=name, level=cut) for name in ("low-passed", "high-passed") for cut in CUTS),
        *(ImageChange(name=name) for name in hybrids),
        *(ImageChange(name="patches shuffled", level=grid) for grid in GRIDS if not any(side % grid for side in sides)),
    )


def changed_batches(images: Dataset, variant: ImageChange, batch_size: int, seed: int) -> LabelledBatches:
    generator = torch.Generator().manual_seed(seed)
    mean, std = (torch.tensor(values)[:, None, None] for values in (images.mean, images.std))
    own = torch.arange(len(images.labels))
    other = partners(images.labels, seed) if variant.name in HYBRIDS else own
    for index in torch.split(own, batch_size):
        pixels, labels = images.images[index].double() / 255, images.labels[index]
        if variant.name in HYBRIDS:
            pixels = hybrid(pixels, images.images[other[index]].double() / 255)
            labels = labels if variant.name == "phase kept" else images.labels[other[index]]
        elif variant.name != "clean":
            pixels = _CHANGES[variant.name](pixels, variant.level, generator)
        yield ((pixels - mean) / std).float(), labels


class ShapeOrTexture(Measurement):
    """The accuracy on each variant of the images. One row per variant."""

    name = "shape"
    title = "Shape or texture"
    caption = (
        "Accuracy on images that lost fine texture (low-passed), coarse shape (high-passed) or the order of their "
        "patches, and on images with the phases of one image and the amplitudes of another: how often the class of the "
        "phases is recognised, and how often that of the amplitudes. None of them is shape or texture itself."
    )

    def work(self, subject: Subject) -> tuple[int, int]:
        return len(variants_of(subject.images)), len(subject.images.labels)

    def measure(self, subject: Subject, done: Rows) -> Iterator[Rows]:
        for variant in variants_of(subject.images)[len(done) :]:
            batches = changed_batches(subject.images, variant, subject.sizes.batch_size, subject.seed)
            found = evaluate(subject.model, batches)
            yield [{"variant": variant.name, "level": variant.level, "accuracy": found.accuracy, "nll": found.nll}]

    def summary(self, rows: Rows) -> Row:
        names = dict.fromkeys(row["variant"] for row in rows)
        return {name: fmean(row["accuracy"] for row in rows if row["variant"] == name) for name in names}

    def figure(self, tables: Sequence[Table]) -> Figure:
        figure = Figure(figsize=(11.4, 3.3))
        panels: Any = figure.subplots(1, 3)
        places = {}
        for table, colour, marker in looks_of(tables):
            for name, line in (("low-passed", "-"), ("high-passed", "--")):
                rows = [row for row in table.rows if row["variant"] == name]
                cuts, accuracies = [row["level"] for row in rows], [row["accuracy"] for row in rows]
                panels[0].plot(cuts, accuracies, f"{marker}{line}", color=colour, ms=4)
            rows = [row for row in table.rows if row["variant"] in ("clean", "patches shuffled")]
            grids, accuracies = [max(1, row["level"]) for row in rows], [row["accuracy"] for row in rows]
            panels[1].plot(grids, accuracies, f"{marker}-", color=colour, ms=4, label=table.label)
            found = self.summary(table.rows)
            if "phase kept" in found:
                places[table.label] = (found["amplitude kept"], found["phase kept"])
        panels[0].set(xlabel="cut frequency (π)", ylabel="accuracy (%)", title="low-passed, and high-passed (dashed)")
        panels[1].set(xlabel="patches on a side", ylabel="accuracy (%)", title="patches shuffled", xscale="log")
        panels[1].set_xticks([1, *GRIDS], ["1", *map(str, GRIDS)])
        panels[1].minorticks_off()
        panels[1].legend(fontsize=6)
        panels[2].set(title="phases of one, amplitudes of another")
        plot_points(panels[2], places, "class of the amplitudes (%)", "class of the phases (%)")
        return figure


_CHANGES: dict[str, Callable[[Tensor, float, torch.Generator], Tensor]] = {
    "low-passed": lambda pixels, cut, _: low_pass(pixels, cut),
    "high-passed": lambda pixels, cut, _: high_pass(pixels, cut),
    "patches shuffled": lambda pixels, grid, generator: shuffle_patches(pixels, int(grid), generator),
}
