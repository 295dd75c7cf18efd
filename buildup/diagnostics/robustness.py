"""Accuracy against robustness, and error against the loss on training images: one point for each of any models.

Robustness is the mean accuracy over the 75 corruptions, and over noise of each frequency band. The paper compares both
with the accuracy on clean images. It also plots the error against the loss on augmented training images: both fall
together if a model underfits, and part if it overfits.
"""

from collections.abc import Iterator, Sequence
from itertools import chain
from statistics import fmean

from buildup.diagnostics.analysis import Measurement, Sizes, Subject
from buildup.diagnostics.corruption import CorruptionErrors
from buildup.diagnostics.figures import Figure, Row, Rows, Table, panels_of, plot_points
from buildup.diagnostics.hessian import BATCH
from buildup.diagnostics.noise import NoiseBands
from buildup.diagnostics.predictions import evaluate, mean_loss

_CORRUPTIONS, _NOISE = CorruptionErrors(), NoiseBands()
UNTOUCHED = "clean 0"
"""The `how` of the row for images before any corruption."""


class Robustness(Measurement):
    """The accuracy on clean images, and on corrupted ones. One row for each corruption."""

    name = "robustness"
    title = "Accuracy against robustness"
    caption = (
        "One point per model. Left: mean accuracy over fifteen corruptions in five severities. Right: mean accuracy "
        "over noise of each frequency band. A model above the others at the same accuracy is more robust."
    )
    is_usual = False

    def check(self, subjects: Sequence[Subject]) -> None:
        _CORRUPTIONS.check(subjects)

    def work(self, subject: Subject) -> tuple[int, int]:
        parts, each = _CORRUPTIONS.work(subject)
        return 1 + parts + _NOISE.work(subject)[0], each

    def measure(self, subject: Subject, done: Rows) -> Iterator[Rows]:
        if not done:
            yield [_row("clean", "", evaluate(subject.model, subject.labelled_batches()).accuracy)]
        kinds = [row for row in done if row["corrupted_by"] == "corruption"]
        bands = [row for row in done if row["corrupted_by"] == "noise"]
        # Both take the number of finished rows from those of an interrupted run.
        for row in chain.from_iterable(_CORRUPTIONS.measure(subject, kinds)):
            yield [_row("corruption", f"{row['kind']} {row['severity']}", 100 * (1 - row["error"]))]
        for row in chain.from_iterable(_NOISE.measure(subject, bands)):
            yield [_row("noise", f"{row['low']:g} to {row['high']:g} pi", row["accuracy"])]

    def summary(self, rows: Rows) -> Row:
        corrupted = [row for row in rows if row["how"] != UNTOUCHED]
        return {
            f"accuracy_{what}": fmean(row["accuracy"] for row in corrupted if row["corrupted_by"] == what)
            for what in ("clean", "corruption", "noise")
        }

    def figure(self, tables: Sequence[Table]) -> Figure:
        figure = Figure(figsize=(8.4, 3.4))
        left, right = figure.subplots(1, 2)
        found = {table.label: self.summary(table.rows) for table in tables}
        clean = {label: numbers["accuracy_clean"] for label, numbers in found.items()}
        # Corruptions may be measured on fewer images, on which these are clean. Published sets have no such row.
        untouched = {one.label: [row["accuracy"] for row in one.rows if row["how"] == UNTOUCHED] for one in tables}
        same = {label: rows[0] if rows else clean[label] for label, rows in untouched.items()}
        for axes, what, across in ((left, "corruption", same), (right, "noise", clean)):
            places = {label: (across[label], numbers[f"accuracy_{what}"]) for label, numbers in found.items()}
            plot_points(axes, places, "accuracy on clean images (%)", f"accuracy under {what} (%)")
        return figure


class TrainingLoss(Measurement):
    """The loss on augmented training images, and the error on images that the model was not trained on. One row."""

    name = "training"
    title = "Error against the loss on training images"
    caption = (
        "One point per model. The loss is the mean negative log-likelihood on training images, augmented as in its "
        "training, and depends on the recipe: compare models of one recipe. Models that underfit have both a larger "
        "loss and a larger error; a model that overfits has a small loss and a large error."
    )
    is_usual = False

    def train_batches(self, sizes: Sizes) -> int:
        return max(1, sizes.images // BATCH)  # as many images as the error is measured on, at most

    def measure(self, subject: Subject, done: Rows) -> Iterator[Rows]:
        images = min(subject.sizes.images, len(subject.images.labels))
        batches = subject.train_batches[: max(1, images // BATCH)]
        found = evaluate(subject.model, subject.labelled_batches())
        train = mean_loss(subject.model, batches)
        yield [
            {
                "training_nll": train,
                "error": 100 - found.accuracy,
                "nll": found.nll,
                "training_images": sum(len(images) for images, _ in batches),
                "images": len(subject.images.labels),
            }
        ]

    def summary(self, rows: Rows) -> Row:
        return dict(rows[0])

    def figure(self, tables: Sequence[Table]) -> Figure:
        figure, panels = panels_of(tables[:1], 4.8, 3.4)
        places = {table.label: (table.rows[0]["training_nll"], table.rows[0]["error"]) for table in tables}
        plot_points(panels[0][0], places, "NLL on augmented training images", "error (%)")
        return figure


def _row(corrupted_by: str, how: str, accuracy: float) -> Row:
    return {"corrupted_by": corrupted_by, "how": how, "accuracy": accuracy}
