"""How good a model's predictions are: accuracy, calibration and Monte Carlo dropout.

Monte Carlo dropout averages the predictions of several passes in which values are dropped as in training; all other
modules stay in evaluation mode. Each dropout module has its own random generator for each pass and draws for the images
in order, so the result does not depend on the batch size (on a CPU; a GPU draws in blocks).
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from functools import partial, reduce
from itertools import chain
from operator import add
from typing import Any

import torch
from torch import Tensor, nn

from buildup.diagnostics.analysis import Batch, LabelledBatches, Measurement, Subject
from buildup.diagnostics.figures import BLUE, SKY, Figure, Row, Rows, Table, looks_of, panels_of
from buildup.errors import RequestError
from buildup.models.trace import evaluation_mode
from buildup.training.execution import ieee_float32
from buildup.training.metrics import Metrics, measure_logits, metrics, tally


def evaluate(model: nn.Module, batches: LabelledBatches) -> Metrics:
    """The metrics of a model in evaluation mode, on its own device."""
    device = next(model.parameters()).device
    with torch.no_grad(), evaluation_mode(model), ieee_float32(device):
        tallies = [tally(model(images.to(device)), labels.to(device)) for images, labels in batches]
    return metrics(reduce(add, tallies))


def mean_loss(model: nn.Module, batches: Iterable[Batch]) -> float:
    device, summed, count = next(model.parameters()).device, 0.0, 0
    with torch.no_grad(), evaluation_mode(model), ieee_float32(device):
        for images, targets in batches:
            logs = model(images.to(device)).double().log_softmax(1)
            summed -= (logs * targets.to(device)).sum().item()
            count += len(images)
    return summed / count


class Calibration(Measurement):
    """The accuracy at each confidence, with the scores over all images. One row per confidence bin."""

    name = "calibration"
    title = "Calibration"
    caption = "Accuracy compared with confidence. A negative ecse means that the model is underconfident."

    def measure(self, subject: Subject, done: Rows) -> Iterator[Rows]:
        found = evaluate(subject.model, subject.labelled_batches())
        yield [
            {**asdict(bin_), **found.values, "accuracy": bin_.accuracy, "points": found.accuracy} for bin_ in found.bins
        ]

    def summary(self, rows: Rows) -> Row:
        return {name: rows[0][name] for name in ("points", "nll", "ece", "ecse", "brier")}

    def figure(self, tables: Sequence[Table]) -> Figure:
        figure, panels = panels_of(tables, 3.4, 2.2, rows=2)
        for number, table in enumerate(tables):
            above, below = panels[0][number], panels[1][number]
            held = [row for row in table.rows if row["images"]]
            ece = table.rows[0]["ece"]
            above.plot([0, 1], [0, 1], color="#777777", lw=1, ls="--", label="perfect")
            confidences, accuracies = ([row[name] for row in held] for name in ("confidence", "accuracy"))
            above.plot(confidences, accuracies, "o-", color=BLUE, ms=4, label=f"ECE {ece:.3f}")
            above.set(ylabel="accuracy", title=table.label, xlim=(0, 1), ylim=(0, 1.04))
            above.legend(fontsize=7)
            images = sum(row["images"] for row in table.rows)
            middles = [(row["low"] + row["high"]) / 2 for row in table.rows]
            below.bar(middles, [row["images"] / images for row in table.rows], width=0.09, color=SKY, edgecolor=BLUE)
            below.set(xlabel="confidence", ylabel="share of images", xlim=(0, 1))
        return figure


def dropout_modules(model: nn.Module) -> dict[str, nn.Dropout]:
    return {path: module for path, module in model.named_modules() if isinstance(module, nn.Dropout) and module.p}


def dropout_ensemble(
    model: nn.Module, batches: Callable[[], LabelledBatches], passes: int, *, seed: int
) -> Iterator[Metrics]:
    """The metrics of the mean probabilities of the first 1, 2, ... passes.

    `batches` returns the same images at each call. The seed is that of the dropout masks.
    """
    summed: Tensor | None = None
    for number in range(passes):
        found, labels = [], []
        with torch.no_grad(), evaluation_mode(model), enable_dropout(model, f"{seed}/{number}"):
            for images, own in batches():
                logits = model(images.to(next(model.parameters()).device))
                found.append(logits.cpu().double().log_softmax(1))
                labels.append(own)
        # Logarithms are summed, because small probabilities would underflow in float32.
        summed = torch.cat(found) if summed is None else torch.logaddexp(summed, torch.cat(found))
        yield measure_logits(summed, torch.cat(labels))


@contextmanager
def enable_dropout(model: nn.Module, seed: str) -> Iterator[None]:
    """Apply dropout in a model in evaluation mode, with one random generator for each dropout module."""
    device = next(model.parameters()).device
    with ExitStack() as stack:
        for path, module in dropout_modules(model).items():
            number = int.from_bytes(hashlib.sha256(f"{seed}/{path}".encode()).digest()[:8])
            generator = torch.Generator(device).manual_seed(number)
            stack.enter_context(module.register_forward_hook(partial(_dropped, generator)))
        yield


def _dropped(generator: torch.Generator, module: nn.Dropout, args: Any, result: Tensor) -> Tensor:
    kept = torch.rand(result.shape, generator=generator, device=generator.device) >= module.p
    return result * kept / (1 - module.p)


class DropoutEnsemble(Measurement):
    """The scores of the mean predictions. One row per number of passes; 0 passes means no dropout."""

    name = "ensemble"
    title = "Averaged predictions"
    caption = (
        "Monte Carlo dropout: the mean probabilities of 1, 2, ... passes in which values are dropped as in training. "
        "Dashed lines and plain numbers: one pass without dropout, the usual prediction. A model that was trained "
        "without dropout has only these."
    )
    is_usual = False

    def check(self, subjects: Sequence[Subject]) -> None:
        passes, label = subjects[0].mc_dropout, subjects[0].label
        if not passes:
            raise RequestError("--what ensemble needs the number of passes: --mc-dropout N.")
        if not any(map(_passes, subjects)):
            raise RequestError(
                f"--mc-dropout {passes}: {label} was trained without dropout. Train it by a recipe with a line like "
                "`dropout: 0.3`."
            )

    def settings(self, subject: Subject) -> Row:
        return {"mc_dropout": subject.mc_dropout}

    def work(self, subject: Subject) -> tuple[int, int]:
        return 1 + _passes(subject), len(subject.images.labels)

    def measure(self, subject: Subject, done: Rows) -> Iterator[Rows]:
        once = [evaluate(subject.model, subject.labelled_batches())] if not done else []
        averaged = dropout_ensemble(subject.model, subject.labelled_batches, _passes(subject), seed=subject.seed)
        for passes, found in enumerate(chain(once, averaged), start=1 - len(once)):
            # Passes of an interrupted run are repeated, because only their metrics were saved.
            if passes >= len(done):
                values = {"points": found.accuracy, "nll": found.nll, "ece": found.ece, "brier": found.brier}
                yield [{"passes": passes, **values}]

    def summary(self, rows: Rows) -> Row:
        first, last = rows[0], rows[-1]
        numbers = ("points", "nll", "ece", "brier")
        dropped = {f"{name}, averaged": last[name] for name in numbers} if last is not first else {}
        return {**{name: first[name] for name in numbers}, **dropped, "passes": last["passes"]}

    def figure(self, tables: Sequence[Table]) -> Figure:
        figure = Figure(figsize=(9.6, 2.9))
        panels: Any = figure.subplots(1, 3)
        most = max(table.rows[-1]["passes"] for table in tables)
        for axes, name, label in zip(panels, ("points", "nll", "ece"), ("accuracy (%)", "NLL", "ECE"), strict=True):
            for table, colour, marker in looks_of(tables):
                once, *averaged = table.rows
                axes.axhline(once[name], color=colour, ls="--", lw=1, label=f"{table.label}, no dropout")
                if averaged:
                    passes = [row["passes"] for row in averaged]
                    values = [row[name] for row in averaged]
                    axes.plot(passes, values, f"{marker}-", color=colour, ms=3, label=f"{table.label}, dropout")
            axes.set(xlabel="passes averaged", ylabel=label, xscale="log", xlim=(0.9, 1.15 * max(2, most)))
            # Plain numbers in place of powers of ten.
            axes.xaxis.set_major_formatter("{x:.0f}")
            axes.xaxis.set_minor_formatter("")
        panels[0].legend(fontsize=7)
        return figure


def _passes(subject: Subject) -> int:
    """The number of passes with dropout; 0 for a model without dropout, whose passes would all be equal."""
    return subject.mc_dropout if dropout_modules(subject.model) else 0
