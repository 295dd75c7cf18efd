"""How much accuracy a model keeps when its images are spoiled (paper.md 8.9): fifteen kinds in five severities each.

The images are those of CIFAR-10-C or CIFAR-100-C where their folder is given, and otherwise made here (`corrupt.py`);
numbers of the two sorts can't be compared, so every row says which of them it is from.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from buildup.diagnostics.analysis import Measurement, Subject
from buildup.diagnostics.corrupt import CHUNK, CORRUPTIONS, SEVERITIES, corrupt
from buildup.diagnostics.figures import COLOURS, SHAPES, Figure, Row, Rows, Table
from buildup.diagnostics.predictions import measured
from buildup.errors import DataError
from buildup.training.augmentation import normalise
from buildup.training.dataset import Dataset
from buildup.training.metrics import Metrics

CLEAN = ("clean", 0)
PUBLISHED_IMAGES = 10_000
"""Of each severity in a published file, one severity after the other."""
ALEXNET = dict(
    zip(
        CORRUPTIONS,
        # The table names glass after zoom.
        (0.713, 0.654, 0.786, 0.522, 0.706, 0.559, 0.550, 0.587, 0.611, 0.565, 0.488, 0.618, 0.522, 0.469, 0.498),
        strict=True,
    )
)
"""The mean errors of the AlexNet that CIFAR-100-C is usually divided by, over all severities (paper.md 8.9)."""

Place = tuple[str, int]
"""A kind and a severity; 0 with `clean`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Robustness:
    """What one severity of one kind did."""

    kind: str
    severity: int
    source: str
    metrics: Metrics

    @property
    def error(self) -> float:
        """Share of the images that are taken for another class."""
        return 1 - self.metrics.accuracy / 100


@dataclass(frozen=True, kw_only=True)
class Generated:
    """Spoiled images that are made while they are looked at."""

    images: Dataset
    seed: int = 0
    source: str = "generated"

    @property
    def reference(self) -> Mapping[str, float]:
        """Nobody's errors on these are known."""
        return {}

    @property
    def places(self) -> tuple[Place, ...]:
        """The clean images, too: the same ones."""
        return (CLEAN, *_spoiled())

    def parts(self, place: Place) -> Iterator[tuple[Tensor, Tensor]]:
        """Images (uint8) with their labels, some at a time."""
        pairs = zip(torch.split(self.images.images, CHUNK), torch.split(self.images.labels, CHUNK), strict=True)
        for number, (images, labels) in enumerate(pairs):
            yield corrupt(images, *place, seed=self.seed + number), labels


@dataclass(frozen=True, kw_only=True)
class Published:
    """The files of CIFAR-10-C or CIFAR-100-C, which are spoiled test images."""

    files: Mapping[str, np.ndarray[Any, np.dtype[np.uint8]]]
    labels: Tensor
    """Of the images of one severity."""
    chosen: Tensor
    """Which of them are looked at, rising."""
    source: str = "published"

    @property
    def reference(self) -> Mapping[str, float]:
        """AlexNet's errors, where they are known for these images."""
        return ALEXNET if int(self.labels.max()) == 99 else {}

    @property
    def places(self) -> tuple[Place, ...]:
        """All kinds; the clean images are not among the files."""
        return _spoiled()

    def parts(self, place: Place) -> Iterator[tuple[Tensor, Tensor]]:
        """Images (uint8) with their labels, some at a time."""
        kind, severity = place
        for index in torch.split(self.chosen, CHUNK):
            rows = self.files[kind][((severity - 1) * PUBLISHED_IMAGES + index).numpy()]
            yield torch.from_numpy(np.ascontiguousarray(rows)).permute(0, 3, 1, 2), self.labels[index]


Corrupted = Generated | Published


def robustness(
    model: nn.Module,
    corrupted: Corrupted,
    places: Sequence[Place],
    *,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    batch_size: int = 256,
) -> Iterator[Robustness]:
    """What a model makes of spoiled images, one severity of one kind after the other; they are only normalised."""

    def batches(place: Place) -> Iterator[tuple[Tensor, Tensor]]:
        for images, labels in corrupted.parts(place):
            for some, theirs in zip(torch.split(images, batch_size), torch.split(labels, batch_size), strict=True):
                yield normalise(some, mean, std), theirs

    for kind, severity in places:
        found = measured(model, batches((kind, severity)))
        yield Robustness(kind=kind, severity=severity, source=corrupted.source, metrics=found)


def open_published(folder: str, images: Dataset, count: int, seed: int) -> Published:
    """The published files of a folder, checked against the images of which they are to be the spoiled kind.

    Args:
        folder: with one `.npy` file a kind and `labels.npy`.
        images: Clean ones, of the same size and classes.
        count: How many of the 10,000 are looked at.
        seed: of which ones.
    """
    root = Path(folder).expanduser()
    if not root.is_dir():
        raise DataError(f"--corruptions {folder}: no such folder. It is that of CIFAR-10-C or CIFAR-100-C, unpacked.")
    missing = [name for name in (*CORRUPTIONS, "labels") if not (root / f"{name}.npy").is_file()]
    if missing:
        raise DataError(f"--corruptions {folder}: {', '.join(f'{name}.npy' for name in missing)} missing.")
    problems, files = [], {}
    side = images.image_size
    expected = (len(SEVERITIES) * PUBLISHED_IMAGES, side, side, images.channels)
    for kind in CORRUPTIONS:
        files[kind] = _opened(root / f"{kind}.npy")
        if files[kind].shape != expected or files[kind].dtype != np.uint8:
            problems.append(
                f"{root / kind}.npy holds {files[kind].dtype} of {files[kind].shape}, and for {images.name} "
                f"uint8 of {expected} is needed."
            )
    labels = torch.from_numpy(np.array(_opened(root / "labels.npy"))).long().flatten()
    if len(labels) not in (PUBLISHED_IMAGES, len(SEVERITIES) * PUBLISHED_IMAGES):
        problems.append(f"{root / 'labels.npy'} holds {len(labels):,} labels, not {PUBLISHED_IMAGES:,}.")
    elif not labels[:PUBLISHED_IMAGES].repeat(len(labels) // PUBLISHED_IMAGES).equal(labels):
        problems.append(f"{root / 'labels.npy'} has other labels for other severities.")
    elif labels.min() < 0 or labels.max() + 1 != images.num_classes:
        problems.append(
            f"{root / 'labels.npy'} knows {int(labels.max()) + 1} classes, and {images.name} has {images.num_classes}: "
            "is it the folder of the other CIFAR?"
        )
    if problems:
        raise DataError(*problems)
    order = torch.randperm(PUBLISHED_IMAGES, generator=torch.Generator().manual_seed(seed))
    return Published(files=files, labels=labels[:PUBLISHED_IMAGES], chosen=order[:count].sort().values)


def kind_errors(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """The mean error of each kind over its severities."""
    kinds = dict.fromkeys(row["kind"] for row in rows if row["severity"])
    return {kind: fmean(row["error"] for row in rows if row["kind"] == kind) for kind in kinds}


def relative_error(errors: Mapping[str, float], reference: Mapping[str, float]) -> float | None:
    """The mean, over kinds, of a model's error divided by a reference's: below 1 it keeps more; None if that has none.

    >>> relative_error({"fog": 0.2, "snow": 0.3}, {"fog": 0.4, "snow": 0.3})
    0.75
    """
    return fmean(errors[kind] / reference[kind] for kind in errors) if all(reference.values()) else None


class CorruptionErrors(Measurement):
    """The error on each severity of each kind."""

    name = "corruption"
    title = "Accuracy on spoiled images"
    words = "Fifteen kinds in five severities. Errors on images generated here and on published ones can't be compared."

    def check(self, subjects: Sequence[Subject]) -> None:
        """Published files must be those of these images."""
        for subject in subjects:
            _corrupted(subject)

    def work(self, subject: Subject) -> tuple[int, int]:
        """A part a severity of a kind."""
        return len(_corrupted(subject).places), min(subject.sizes.corrupted_images, len(subject.images.labels))

    def measure(self, subject: Subject, done: Rows) -> Iterator[Rows]:
        """One row a severity of a kind."""
        corrupted_part, data = _corrupted(subject), subject.images
        left = corrupted_part.places[len(done) :]
        size = subject.sizes.batch_size
        for found in robustness(subject.model, corrupted_part, left, mean=data.mean, std=data.std, batch_size=size):
            family = CORRUPTIONS[found.kind].family if found.severity else ""
            place = {"kind": found.kind, "family": family, "severity": found.severity, "source": found.source}
            values = {"error": found.error, "nll": found.metrics.nll, "ece": found.metrics.ece}
            yield [{**place, **values, "alexnet_error": corrupted_part.reference.get(found.kind)}]

    def summary(self, rows: Rows) -> Row:
        """The mean error, also relative to AlexNet's where that is known."""
        clean = [row["error"] for row in rows if not row["severity"]]
        errors = kind_errors(rows)
        alexnet = {row["kind"]: row["alexnet_error"] for row in rows if row["alexnet_error"]}
        known = {"error relative to AlexNet": relative_error(errors, alexnet)} if alexnet else {}
        found = {"clean_error": clean[0]} if clean else {}
        return {**found, "mean_error": fmean(errors.values()), **known, "images": rows[0]["source"]}

    def summaries(self, tables: Mapping[str, Rows]) -> dict[str, Row]:
        """The errors of the first model also relative to those of the second."""
        found = {label: self.summary(rows) for label, rows in tables.items()}
        if len(tables) > 1:
            (first, rows), (second, others) = list(tables.items())[:2]
            found[first][f"error relative to {second}"] = relative_error(kind_errors(rows), kind_errors(others))
        return found

    def figure(self, tables: Sequence[Table]) -> Figure:
        figure = Figure(figsize=(7.6, 4.2))
        left, right = figure.subplots(1, 2, width_ratios=(3, 2))
        kinds = list(dict.fromkeys(row["kind"] for row in tables[0].rows if row["severity"]))
        places = range(len(kinds))
        for table, colour, marker in zip(tables, COLOURS, SHAPES, strict=False):
            corrupted_part = [row for row in table.rows if row["severity"]]
            means = [np.mean([100 * row["error"] for row in corrupted_part if row["kind"] == kind]) for kind in kinds]
            # Hollow from the second model on, or equal values would hide each other.
            face = colour if table is tables[0] else "none"
            left.plot(means, places, marker, color=colour, mfc=face, mew=1.4, ms=6, label=table.label)
            severities = sorted({row["severity"] for row in table.rows})
            right.plot(
                severities,
                [np.mean([100 * row["error"] for row in table.rows if row["severity"] == each]) for each in severities],
                f"{marker}-",
                color=colour,
                ms=5,
                label=table.label,
            )
        left.set_yticks(places, [kind.replace("_", " ") for kind in kinds])
        left.invert_yaxis()
        families = [next(row["family"] for row in tables[0].rows if row["kind"] == kind) for kind in kinds]
        for place, (before, after) in enumerate(pairwise(families), start=1):
            if before != after:
                left.axhline(place - 0.5, color="#444444", lw=0.7)
        made = {"generated": "generated here", "published": "published sets"}[tables[0].rows[0]["source"]]
        left.set(xlabel="error (%), mean of 5 severities", title=f"15 corruptions, {made}")
        right.set(xlabel="severity (0: clean)", ylabel="error (%), mean of all kinds", title="all kinds")
        right.legend(fontsize=7)
        return figure


CORRUPTION = CorruptionErrors()


def _corrupted(subject: Subject) -> Corrupted:
    """What a subject's robustness is measured on."""
    images, count = subject.images, subject.sizes.corrupted_images
    if subject.corruptions:
        return open_published(subject.corruptions, images, count, subject.seed)
    # Spread over all of them, for some sets are in the order of their classes.
    index = torch.linspace(0, len(images.labels) - 1, min(count, len(images.labels))).round().long()
    return Generated(images=images.part(index), seed=subject.seed)


def _spoiled() -> tuple[Place, ...]:
    return tuple((kind, severity) for kind in CORRUPTIONS for severity in SEVERITIES)


def _opened(path: Path) -> Any:
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: no array of numpy: {error}") from error
