"""What a trained model loses without one of its units (paper.md 8.5).

A branch is removed by letting its sum give out what goes around it. Of a convolutional block the paper removes one
3x3 convolution instead: its output becomes its input. How it does that where the convolution has a stride is not said.
Here it becomes every second place of its input, and the removal of the whole branch is measured beside it.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor, nn

from buildup.diagnostics.analysis import Measurement, Subject, named
from buildup.diagnostics.figures import BLUE, ORANGE, SKY, Figure, Row, Rows, Table, panels_of, shade
from buildup.diagnostics.hooks import Action, acting
from buildup.diagnostics.predictions import Labelled, measured
from buildup.diagnostics.units import Unit
from buildup.models.trace import Site
from buildup.training.metrics import Metrics

Treatment = Literal["branch", "convolution", "convolution, sampled"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Wound:
    """One way to remove one unit."""

    unit: Unit
    treatment: Treatment
    site: Site


@dataclass(frozen=True, slots=True, kw_only=True)
class Lesion:
    """What a removal did. Batch norms after it keep their statistics."""

    wound: Wound
    metrics: Metrics
    change: float
    """Points of accuracy, below zero where something was lost."""


def wounds(model: nn.Module, units: Sequence[Unit]) -> tuple[Wound, ...]:
    """All removals, in the units' order: none for a chain without a convolution that could be left out."""
    modules = dict(model.named_modules())
    found = []
    for unit in units:
        if unit.kind in ("stem", "head", "subsampling"):
            continue
        conv = next((path for path in reversed(unit.convs) if _can_be_left_out(modules[path])), None)
        if unit.kind == "conv" and conv is not None:
            stride: Any = modules[conv].stride
            sampled = max(stride) > 1
            treatment: Treatment = "convolution, sampled" if sampled else "convolution"
            found.append(Wound(unit=unit, treatment=treatment, site=Site(path=conv)))
        if unit.join is not None and (unit.kind != "conv" or conv is None or unit.subsamples):
            found.append(Wound(unit=unit, treatment="branch", site=unit.join))
    return tuple(found)


def wounded(model: nn.Module, *wounds: Wound) -> AbstractContextManager[None]:
    """Inside, the model runs without these; weights are not touched."""
    return acting(model, {wound.site: _action(wound) for wound in wounds})


def lesions(
    model: nn.Module, wounds: Iterable[Wound], batches: Callable[[], Labelled]
) -> Iterator[tuple[Metrics, Lesion]]:
    """Remove one unit after the other; each comes with the metrics of the intact model.

    Args:
        model: It runs in evaluation mode.
        wounds: What to remove.
        batches: Gives the same images with labels at each call.
    """
    intact = measured(model, batches())
    for wound in wounds:
        with wounded(model, wound):
            found = measured(model, batches())
        yield intact, Lesion(wound=wound, metrics=found, change=found.accuracy - intact.accuracy)


class Lesions(Measurement):
    """The accuracy without each unit."""

    name = "lesion"
    title = "Accuracy without a unit"
    words = "What is lost when one branch, or one convolution of a block, is left out. Nothing is trained again."

    def work(self, subject: Subject) -> tuple[int, int]:
        """A part a removal."""
        return len(wounds(subject.model, subject.units)), len(subject.images.labels)

    def measure(self, subject: Subject, done: Rows) -> Iterator[Rows]:
        """One row a removal."""
        left = wounds(subject.model, subject.units)[len(done) :]
        for intact, found in lesions(subject.model, left, subject.labelled):
            values = {"intact": intact.accuracy, "accuracy": found.metrics.accuracy, "change": found.change}
            treatment = found.wound.treatment
            yield [{**named(found.wound.unit), "treatment": treatment, **values, "nll": found.metrics.nll}]

    def summary(self, rows: Rows) -> Row:
        """The removal that costs most."""
        worst = min(rows, key=lambda row: row["change"])
        return {"worst": worst["name"], "worst_change": worst["change"]}

    def figure(self, tables: Sequence[Table]) -> Figure:
        figure, panels = panels_of(tables, 4.6, 3.1, sharey=True)
        for axes, table in zip(panels[0], tables, strict=True):
            last = max(1, len(table.units) - 1)
            shade(axes, table)
            styles = {"branch": (ORANGE, "s"), "convolution": (BLUE, "o"), "convolution, sampled": (SKY, "o")}
            for treatment, (colour, marker) in styles.items():
                own = [row for row in table.rows if row["treatment"] == treatment]
                if own:
                    places = [row["unit"] / last for row in own]
                    changes = [row["change"] for row in own]
                    axes.vlines(places, 0, changes, color=colour, lw=1.4)
                    axes.plot(places, changes, marker, color=colour, ms=5, label=f"without its {treatment}")
            axes.axhline(0, color="black", lw=0.8)
            axes.set(xlabel="normalised depth", ylabel="Δ accuracy (points)", title=table.label, xlim=(-0.02, 1.02))
            axes.legend(fontsize=7, loc="lower right")
        return figure


LESION = Lesions()


def _can_be_left_out(module: nn.Module) -> bool:
    return isinstance(module, nn.Conv2d) and module.in_channels == module.out_channels


def _action(wound: Wound) -> Action:
    if wound.treatment == "branch":
        # A copy, for the activation that may follow overwrites it, and it may be the block's own input.
        return lambda result, operands: operands[wound.unit.skip].expand_as(result).clone()
    return _left_out


def _left_out(result: Tensor, given: tuple[Any, ...]) -> Tensor:
    source: Tensor = given[0]
    rows, columns = (-(-before // after) for before, after in zip(source.shape[2:], result.shape[2:], strict=True))
    return source[:, :, ::rows, ::columns].clone()
