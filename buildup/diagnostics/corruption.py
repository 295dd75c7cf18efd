"""The error of a model on corrupted images: fifteen kinds in five severities each.

The images are those of CIFAR-10-C or CIFAR-100-C if their folder is given, otherwise they are made here
(`image_corruptions.py`). Errors on the two are not comparable, so every row names its source.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import torch
from torch import Tensor

from buildup.diagnostics.analysis import Measurement, Subject, labelled_batches
from buildup.diagnostics.figures import Figure, Row, Rows, Table, looks_of
from buildup.diagnostics.image_corruptions import CHUNK, CORRUPTIONS, SEVERITIES, corrupt
from buildup.diagnostics.predictions import evaluate
from buildup.errors import DataError
from buildup.training.dataset import Dataset

CLEAN = ("clean", 0)
PUBLISHED_IMAGES = 10_000
"""Images per severity in a published file, which holds one severity after the other."""
ALEXNET = dict(
    zip(
        CORRUPTIONS,
        # The table names glass after zoom.
        (0.713, 0.654, 0.786, 0.522, 0.706, 0.559, 0.550, 0.587, 0.611, 0.565, 0.488, 0.618, 0.522, 0.469, 0.498),
        strict=True,
    )
)
"""The errors of AlexNet on CIFAR-100-C, averaged over severities: the usual reference."""

Condition = tuple[str, int]
"""A kind and a severity; `clean` has severity 0."""
CONDITIONS: tuple[Condition, ...] = tuple((kind, severity) for kind in CORRUPTIONS for severity in SEVERITIES)


@dataclass(frozen=True, kw_only=True)
class GeneratedImages:
    """Images that are corrupted here, batch by batch."""

    images: Dataset
    seed: int = 0
    source: str = "generated"
    reference: Mapping[str, float] = field(default_factory=dict)
    """Errors of a reference model by kind. None are known for these images."""
    conditions: tuple[Condition, ...] = (CLEAN, *CONDITIONS)

    def parts(self, condition: Condition) -> Iterator[tuple[Tensor, Tensor]]:
        """Chunks of images (uint8) with their labels."""
        pairs = zip(torch.split(self.images.images, CHUNK), torch.split(self.images.labels, CHUNK), strict=True)
        for number, (images, labels) in enumerate(pairs):
            yield corrupt(images, *condition, seed=self.seed + number), labels


@dataclass(frozen=True, kw_only=True)
class PublishedImages:
    """The files of CIFAR-10-C or CIFAR-100-C, which are corrupted test images. Clean images are not among them."""

    files: Mapping[str, np.ndarray[Any, np.dtype[np.uint8]]]
    labels: Tensor
    """The labels of the images of one severity."""
    chosen: Tensor
    """The indices of the images that are used, in rising order."""
    source: str = "published"
    conditions: tuple[Condition, ...] = CONDITIONS

    @property
    def reference(self) -> Mapping[str, float]:
        """AlexNet's errors by kind, which are known for CIFAR-100-C."""
        return ALEXNET if int(self.labels.max()) == 99 else {}

    def parts(self, condition: Condition) -> Iterator[tuple[Tensor, Tensor]]:
        kind, severity = condition
        for index in torch.split(self.chosen, CHUNK):
            rows = self.files[kind][((severity - 1) * PUBLISHED_IMAGES + index).numpy()]
            yield torch.from_numpy(np.ascontiguousarray(rows)).permute(0, 3, 1, 2), self.labels[index]


CorruptedImages = GeneratedImages | PublishedImages


def corrupted_batches(
    corrupted: CorruptedImages, condition: Condition, clean: Dataset, batch_size: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches of corrupted images, normalised as the clean ones are."""
    for images, labels in corrupted.parts(condition):
        yield from labelled_batches(replace(clean, images=images, labels=labels), batch_size)


def open_published(folder: str, images: Dataset, count: int, seed: int) -> PublishedImages:
    """The published files of a folder: `labels.npy` and one `.npy` file per kind.

    Their size and classes must be those of the clean images. The seed chooses `count` of the 10,000 images.
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
        files[kind] = _load_array(root / f"{kind}.npy")
        if files[kind].shape != expected or files[kind].dtype != np.uint8:
            problems.append(
                f"{root / kind}.npy holds {files[kind].dtype} of {files[kind].shape}, and for {images.name} "
                f"uint8 of {expected} is needed."
            )
    labels = torch.from_numpy(np.array(_load_array(root / "labels.npy"))).long().flatten()
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
    return PublishedImages(files=files, labels=labels[:PUBLISHED_IMAGES], chosen=order[:count].sort().values)


def kind_errors(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    kinds = dict.fromkeys(row["kind"] for row in rows if row["severity"])
    return {kind: fmean(row["error"] for row in rows if row["kind"] == kind) for kind in kinds}


def relative_error(errors: Mapping[str, float], reference: Mapping[str, float]) -> float | None:
    """The mean over kinds of a model's error divided by a reference's; None if the reference has no error for a kind.

    >>> relative_error({"fog": 0.2, "snow": 0.3}, {"fog": 0.4, "snow": 0.3})
    0.75
    """
    return fmean(errors[kind] / reference[kind] for kind in errors) if all(reference.values()) else None


class CorruptionErrors(Measurement):
    """The error on each severity of each kind. One row per severity of a kind."""

    name = "corruption"
    title = "Error on corrupted images"
    caption = "Fifteen kinds in five severities. Errors on generated and on published images can't be compared."

    def check(self, subjects: Sequence[Subject]) -> None:
        for subject in subjects:
            _corrupted(subject)

    def work(self, subject: Subject) -> tuple[int, int]:
        return len(_corrupted(subject).conditions), min(subject.sizes.corrupted_images, len(subject.images.labels))

    def measure(self, subject: Subject, done: Rows) -> Iterator[Rows]:
        corrupted = _corrupted(subject)
        for kind, severity in corrupted.conditions[len(done) :]:
            batches = corrupted_batches(corrupted, (kind, severity), subject.images, subject.sizes.batch_size)
            found = evaluate(subject.model, batches)
            yield [
                {
                    "kind": kind,
                    "family": CORRUPTIONS[kind].family if severity else "",
                    "severity": severity,
                    "source": corrupted.source,
                    "error": 1 - found.accuracy / 100,
                    "nll": found.nll,
                    "ece": found.ece,
                    "alexnet_error": corrupted.reference.get(kind),
                }
            ]

    def summary(self, rows: Rows) -> Row:
        clean = [row["error"] for row in rows if not row["severity"]]
        errors = kind_errors(rows)
        alexnet = {row["kind"]: row["alexnet_error"] for row in rows if row["alexnet_error"]}
        known = {"error relative to AlexNet": relative_error(errors, alexnet)} if alexnet else {}
        found = {"clean_error": clean[0]} if clean else {}
        return {**found, "mean_error": fmean(errors.values()), **known, "images": rows[0]["source"]}

    def summaries(self, tables: Mapping[str, Rows]) -> dict[str, Row]:
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
        for table, colour, marker in looks_of(tables):
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


def _corrupted(subject: Subject) -> CorruptedImages:
    images, count = subject.images, subject.sizes.corrupted_images
    if subject.corruptions:
        return open_published(subject.corruptions, images, count, subject.seed)
    return GeneratedImages(images=subject.spread(count), seed=subject.seed)


def _load_array(path: Path) -> Any:
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: no array of numpy: {error}") from error
