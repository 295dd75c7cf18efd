"""All measurements by name, each as the rows of a table: what `buildup analyze` writes down and draws.

A measurement takes the rows that an earlier, interrupted run of it left, and gives those that are missing.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from statistics import fmean
from typing import Any

import torch
from torch import Tensor, nn

from buildup.diagnostics.cka import cka
from buildup.diagnostics.corrupt import CORRUPTIONS
from buildup.diagnostics.corruption import (
    Corrupted,
    Generated,
    kind_errors,
    relative_error,
    robustness,
)
from buildup.diagnostics.ensemble import drops, ensemble
from buildup.diagnostics.fourier import fourier
from buildup.diagnostics.hessian import Batch, ape, hessian, nep
from buildup.diagnostics.landscape import directions, grid, landscape, room
from buildup.diagnostics.lesion import lesions, wounds
from buildup.diagnostics.memory import free_memory
from buildup.diagnostics.noise import PAPER_BANDS, Band, band_mask, band_noise
from buildup.diagnostics.predictions import labelled, measured
from buildup.diagnostics.units import Unit
from buildup.diagnostics.variance import variance
from buildup.training.dataset import Dataset
from buildup.training.metrics import Metrics

Row = dict[str, Any]
Rows = Sequence[Row]


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
    hessian_batches: tuple[Batch, ...]
    landscape_batches: tuple[Batch, ...]
    """Both augmented as in a training."""
    weight_decay: float
    sizes: Sizes
    seed: int = 0
    """Of directions, noise and corruptions."""
    restate: bool = False
    """Whether batch norms get new statistics at each point of the landscape."""
    corrupted: Corrupted | None = None
    """Published images; without them some of its own are spoiled."""
    mc_dropout: int = 0
    """Passes whose predictions are averaged, values being dropped in each."""

    @property
    def corrupted_part(self) -> Corrupted:
        """What its robustness is measured on."""
        count = min(self.sizes.corrupted_images, len(self.images.labels))
        # Spread over all of them, for some sets are in the order of their classes.
        index = torch.linspace(0, len(self.images.labels) - 1, count).round().long()
        return self.corrupted or Generated(images=self.images.part(index), seed=self.seed)

    def batches(self) -> Iterator[Tensor]:
        """The images alone, where the model is."""
        device = next(self.model.parameters()).device
        return (images.to(device) for images, _ in labelled(self.images, self.sizes.batch_size))


def units_rows(subject: Subject) -> Rows:
    """What the model was taken apart into."""
    return [
        {
            **_named(unit),
            "subsamples": unit.subsamples,
            "height": unit.size[0] if unit.size else None,
            "width": unit.size[1] if unit.size else None,
            "channels": unit.channels,
        }
        for unit in subject.units
    ]


def _fourier(subject: Subject, done: Rows) -> Iterator[Rows]:
    found = fourier(subject.model, subject.units, subject.batches())
    yield [
        {
            **_named(subject.units[index]),
            "frequency": frequency,
            "log_amplitude": amplitude,
            "high_energy": spectrum.high_energy,
        }
        for index, spectrum in found.items()
        for frequency, amplitude in zip(spectrum.frequencies, spectrum.amplitudes, strict=True)
    ]


def _variance(subject: Subject, done: Rows) -> Iterator[Rows]:
    found = variance(subject.model, subject.units, subject.batches())
    yield [{**_named(subject.units[index]), "variance": value} for index, value in found.items()]


def _lesion(subject: Subject, done: Rows) -> Iterator[Rows]:
    left = wounds(subject.model, subject.units)[len(done) :]
    for intact, found in lesions(subject.model, left, lambda: labelled(subject.images, subject.sizes.batch_size)):
        values = {"intact": intact.accuracy, "accuracy": found.metrics.accuracy, "change": found.change}
        treatment = found.wound.treatment
        yield [{**_named(found.wound.unit), "treatment": treatment, **values, "nll": found.metrics.nll}]


def _cka(subject: Subject, done: Rows) -> Iterator[Rows]:
    found = cka(subject.model, subject.units, subject.batches())
    yield [
        {"unit": one.index, "other": other.index, "cka": value}
        for one, values in zip(subject.units, found.values, strict=True)
        for other, value in zip(subject.units, values, strict=True)
    ]


def _noise(subject: Subject, done: Rows) -> Iterator[Rows]:
    left = _bands(subject)[len(done) :]
    size = subject.sizes.batch_size
    for found in band_noise(subject.model, subject.images, bands=left, seed=subject.seed, batch_size=size):
        measured = {"accuracy": found.metrics.accuracy, "drop": found.drop, "nll": found.metrics.nll}
        yield [{"low": found.band.low, "high": found.band.high, **measured}]


def _bands(subject: Subject) -> tuple[Band, ...]:
    """The paper's bands, without those that images of this size have no frequency in."""
    height, width = subject.images.images.shape[2:]
    return tuple(band for band in PAPER_BANDS if band_mask((height, width), band).any())


def _corruption(subject: Subject, done: Rows) -> Iterator[Rows]:
    corrupted_part, data = subject.corrupted_part, subject.images
    left = corrupted_part.places[len(done) :]
    size = subject.sizes.batch_size
    for found in robustness(subject.model, corrupted_part, left, mean=data.mean, std=data.std, batch_size=size):
        family = CORRUPTIONS[found.kind].family if found.severity else ""
        named = {"kind": found.kind, "family": family, "severity": found.severity, "source": found.source}
        measured = {"error": found.error, "nll": found.metrics.nll, "ece": found.metrics.ece}
        yield [{**named, **measured, "alexnet_error": corrupted_part.reference.get(found.kind)}]


def _hessian(subject: Subject, done: Rows) -> Iterator[Rows]:
    first = 1 + max((row["batch"] for row in done), default=-1)
    left = subject.hessian_batches[first:]
    found = hessian(subject.model, left, weight_decay=subject.weight_decay, seed=subject.seed)
    for number, batch in enumerate(found, start=first):
        how = {"products": batch.products, "converged": batch.converged}
        yield [
            {"batch": number, "rank": rank, "eigenvalue": value, "residual": residual, **how}
            for rank, (value, residual) in enumerate(zip(batch.values, batch.residuals, strict=True))
        ]


def _landscape(subject: Subject, done: Rows) -> Iterator[Rows]:
    left = grid(subject.sizes.landscape_side)[len(done) :]
    towards = directions(subject.model, seed=subject.seed)
    device = next(subject.model.parameters()).device
    # On a CPU one after the other is faster: side by side, convolutions become grouped ones.
    together = room(subject.model, towards, free_memory(device)) if device.type == "cuda" else 1
    points = landscape(
        subject.model, subject.landscape_batches, left, towards, together=together, restate=subject.restate
    )
    for point in points:
        yield [{**asdict(point), "loss": point.loss(subject.weight_decay)}]


def _calibration(subject: Subject, done: Rows) -> Iterator[Rows]:
    found = measured(subject.model, labelled(subject.images, subject.sizes.batch_size))
    yield [{**asdict(bin_), **found.values, "accuracy": bin_.accuracy, "points": found.accuracy} for bin_ in found.bins]


def _ensemble(subject: Subject, done: Rows) -> Iterator[Rows]:
    def batches() -> Iterator[tuple[Tensor, Tensor]]:
        return labelled(subject.images, subject.sizes.batch_size)

    def row(passes: int, found: Metrics) -> Rows:
        return [{"passes": passes, "points": found.accuracy, "nll": found.nll, "ece": found.ece, "brier": found.brier}]

    if not done:
        yield row(0, measured(subject.model, batches()))
    averaged = ensemble(subject.model, batches, _passes(subject), seed=subject.seed)
    for passes, found in enumerate(averaged, start=1):
        # Passes of an interrupted run are made again, for only their numbers were kept.
        if passes >= len(done):
            yield row(passes, found)


def _passes(subject: Subject) -> int:
    """Without dropout, all of them would be the same."""
    return subject.mc_dropout if drops(subject.model) else 0


def _named(unit: Unit) -> Row:
    return {"unit": unit.index, "name": unit.name, "kind": unit.kind, "stage": unit.stage}


Measure = Callable[[Subject, Rows], Iterator[Rows]]
"""Gives the rows in parts, as they come, without those that are there already."""

MEASURES: dict[str, Measure] = {
    "hessian": _hessian,
    "landscape": _landscape,
    "fourier": _fourier,
    "variance": _variance,
    "lesion": _lesion,
    "cka": _cka,
    "noise": _noise,
    "corruption": _corruption,
    "calibration": _calibration,
    "ensemble": _ensemble,
}

LABELLED = ("hessian", "landscape", "lesion", "noise", "corruption", "calibration", "ensemble")
"""Those that need a model that tells the classes of the images apart."""


def parts(what: str, subject: Subject) -> int:
    """In how many parts a measurement comes."""
    match what:
        case "hessian":
            return len(subject.hessian_batches)
        case "landscape":
            return subject.sizes.landscape_side**2
        case "lesion":
            return len(wounds(subject.model, subject.units))
        case "noise":
            return len(_bands(subject))
        case "corruption":
            return len(subject.corrupted_part.places)
        case "ensemble":
            return 1 + _passes(subject)
    return 1


def images_of(what: str, subject: Subject) -> int:
    """How many images a model is shown for one part; 0 for the Hessian, whose products show it none."""
    match what:
        case "hessian":
            return 0
        case "landscape":
            return sum(len(images) for images, _ in subject.landscape_batches)
        case "corruption":
            return min(subject.sizes.corrupted_images, len(subject.images.labels))
    return len(subject.images.labels)


def summary(what: str, rows: Rows) -> Row:
    """The few numbers that a measurement comes down to."""
    match what:
        case "hessian":
            values = [row["eigenvalue"] for row in rows]
            return {
                "nep": nep(values),
                "ape": ape(values),
                "batches": len({row["batch"] for row in rows}),
                "converged": all(row["converged"] for row in rows),
            }
        case "landscape":
            centre = min(rows, key=lambda row: row["x"] ** 2 + row["y"] ** 2)
            return {"centre_nll": centre["nll"], "centre_loss": centre["loss"], "points": len(rows)}
        case "calibration":
            return {name: rows[0][name] for name in ("points", "nll", "ece", "ecse", "brier")}
        case "ensemble":
            first, last = rows[0], rows[-1]
            numbers = ("points", "nll", "ece", "brier")
            dropped = {f"{name}, averaged": last[name] for name in numbers} if last is not first else {}
            return {**{name: first[name] for name in numbers}, **dropped, "passes": last["passes"]}
        case "lesion":
            worst = min(rows, key=lambda row: row["change"])
            return {"worst": worst["name"], "worst_change": worst["change"]}
        case "noise":
            worst = max(rows, key=lambda row: row["drop"])
            return {"worst_frequency": (worst["low"] + worst["high"]) / 2, "worst_drop": worst["drop"]}
        case "corruption":
            clean = [row["error"] for row in rows if not row["severity"]]
            errors = kind_errors(rows)
            alexnet = {row["kind"]: row["alexnet_error"] for row in rows if row["alexnet_error"]}
            known = {"error relative to AlexNet": relative_error(errors, alexnet)} if alexnet else {}
            found = {"clean_error": clean[0]} if clean else {}
            return {**found, "mean_error": fmean(errors.values()), **known, "images": rows[0]["source"]}
        case "cka":
            return {"mean": fmean(row["cka"] for row in rows if row["unit"] != row["other"])}
        case "variance":
            return _steps(rows, "variance")
        case "fourier":
            ends = list({row["unit"]: row for row in rows}.values())
            return _steps(ends, "log_amplitude")
    return {}


def summaries(what: str, tables: Mapping[str, Rows]) -> dict[str, Row]:
    """The few numbers of each model; with several, how those of the first compare with the second."""
    found = {label: summary(what, rows) for label, rows in tables.items()}
    if what == "corruption" and len(tables) > 1:
        (first, rows), (second, others) = list(tables.items())[:2]
        found[first][f"error relative to {second}"] = relative_error(kind_errors(rows), kind_errors(others))
    return found


def _steps(rows: Rows, column: str) -> Row:
    """The mean step of a value at units of each kind, within stages: the sign is what the paper speaks of."""
    steps: dict[str, list[float]] = {}
    for before, after in pairwise(rows):
        if after["stage"] == before["stage"] and after["unit"] == before["unit"] + 1:
            steps.setdefault(after["kind"], []).append(after[column] - before[column])
    return {f"mean_step_{kind}": fmean(values) for kind, values in sorted(steps.items())}
