"""Monte Carlo dropout (paper.md 9): predictions averaged over passes in which values are dropped as in the training.

All else is as in evaluation mode. Each dropout has a generator of its own for each pass, from which the images take
their draws in their order, so the size of the batches changes nothing (on a CPU; a GPU draws in blocks).
"""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from buildup.diagnostics.analysis import Measurement, Subject
from buildup.diagnostics.figures import COLOURS, SHAPES, Figure, Row, Rows, Table
from buildup.diagnostics.hooks import evaluating
from buildup.diagnostics.predictions import Labelled, measured
from buildup.errors import RequestError
from buildup.training.metrics import Metrics, measure_logits


def drops(model: nn.Module) -> dict[str, nn.Dropout]:
    """The places of a model where values are dropped, by their paths."""
    return {path: module for path, module in model.named_modules() if isinstance(module, nn.Dropout) and module.p}


def ensemble(model: nn.Module, batches: Callable[[], Labelled], passes: int, *, seed: int) -> Iterator[Metrics]:
    """What the mean probabilities of the first 1, 2, ... passes are worth.

    Args:
        model: On the device where it is to run; its mode and weights stay as they are.
        batches: The same images, each time it is called.
        passes: How many passes there are.
        seed: Of what is dropped.
    """
    summed: Tensor | None = None
    for number in range(passes):
        found, labels = [], []
        with torch.no_grad(), evaluating(model), dropping(model, f"{seed}/{number}"):
            for images, own in batches():
                logits = model(images.to(next(model.parameters()).device))
                found.append(logits.cpu().double().log_softmax(1))
                labels.append(own)
        # Of logarithms, or a probability that float32 has no number for would become zero.
        summed = torch.cat(found) if summed is None else torch.logaddexp(summed, torch.cat(found))
        yield measure_logits(summed, torch.cat(labels))


@contextmanager
def dropping(model: nn.Module, seed: str) -> Iterator[None]:
    """Drop values at every dropout of a model in evaluation mode, from draws of their own."""
    device = next(model.parameters()).device
    with ExitStack() as stack:
        for path, module in drops(model).items():
            stack.enter_context(module.register_forward_hook(_drop(module.p, f"{seed}/{path}", device)))
        yield


class DropoutEnsemble(Measurement):
    """The scores of the mean predictions of 1, 2, ... passes."""

    name = "ensemble"
    title = "Averaged predictions"
    words = (
        "Monte Carlo dropout: the mean probabilities of 1, 2, ... passes in which values are dropped as in the "
        "training. Dashed: one pass in which all are kept, as a network is used otherwise. Numbers without a word are "
        "those; a model that was trained without dropout has no others."
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
        """How many passes are averaged."""
        return {"mc_dropout": subject.mc_dropout}

    def work(self, subject: Subject) -> tuple[int, int]:
        """A part a pass, and one without dropout."""
        return 1 + _passes(subject), len(subject.images.labels)

    def measure(self, subject: Subject, done: Rows) -> Iterator[Rows]:
        """One row a number of passes."""

        def row(passes: int, found: Metrics) -> Rows:
            values = {"points": found.accuracy, "nll": found.nll, "ece": found.ece, "brier": found.brier}
            return [{"passes": passes, **values}]

        if not done:
            yield row(0, measured(subject.model, subject.labelled()))
        averaged = ensemble(subject.model, subject.labelled, _passes(subject), seed=subject.seed)
        for passes, found in enumerate(averaged, start=1):
            # Passes of an interrupted run are made again, for only their numbers were kept.
            if passes >= len(done):
                yield row(passes, found)

    def summary(self, rows: Rows) -> Row:
        """The values of one pass without dropout, and those of the most passes."""
        first, last = rows[0], rows[-1]
        numbers = ("points", "nll", "ece", "brier")
        dropped = {f"{name}, averaged": last[name] for name in numbers} if last is not first else {}
        return {**{name: first[name] for name in numbers}, **dropped, "passes": last["passes"]}

    def figure(self, tables: Sequence[Table]) -> Figure:
        figure = Figure(figsize=(9.6, 2.9))
        panels: Any = figure.subplots(1, 3)
        most = max(table.rows[-1]["passes"] for table in tables)
        for axes, name, label in zip(panels, ("points", "nll", "ece"), ("accuracy (%)", "NLL", "ECE"), strict=True):
            for table, colour, marker in zip(tables, COLOURS, SHAPES, strict=False):
                once, *averaged = table.rows
                axes.axhline(once[name], color=colour, ls="--", lw=1, label=f"{table.label}, all kept")
                if averaged:
                    passes = [row["passes"] for row in averaged]
                    values = [row[name] for row in averaged]
                    axes.plot(passes, values, f"{marker}-", color=colour, ms=3, label=f"{table.label}, dropped")
            axes.set(xlabel="passes averaged", ylabel=label, xscale="log", xlim=(0.9, 1.15 * max(2, most)))
            # Plain numbers in place of powers of ten.
            axes.xaxis.set_major_formatter("{x:.0f}")
            axes.xaxis.set_minor_formatter("")
        panels[0].legend(fontsize=7)
        return figure


ENSEMBLE = DropoutEnsemble()


def _passes(subject: Subject) -> int:
    """Without dropout, all of them would be the same."""
    return subject.mc_dropout if drops(subject.model) else 0


def _drop(rate: float, seed: str, device: torch.device) -> Callable[..., Tensor]:
    number = int.from_bytes(hashlib.sha256(seed.encode()).digest()[:8])
    generator = torch.Generator(device).manual_seed(number)

    def hook(module: nn.Module, args: Any, result: Tensor) -> Tensor:
        kept = torch.rand(result.shape, generator=generator, device=device) >= rate
        return result * kept / (1 - rate)

    return hook
