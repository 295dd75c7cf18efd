"""What a trained model loses without one of its units, or without the blocks that a search replaces.

A branch is removed by replacing its residual sum by the shortcut. In a convolutional block the paper instead replaces
one 3x3 convolution by the identity. It does not say how it treats a convolution with a stride. Here the output is every
second pixel of the input, and the removal of the whole branch is measured as well.

For verdicts, a block is a module that a search replaces: its output has the shape of its input. So it can be removed in
every family by returning its input, and its output can be compared with its input directly.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from math import exp, isnan, log, nan
from statistics import fmean
from typing import Any, Literal

from torch import Tensor, nn

from buildup.diagnostics.analysis import LabelledBatches, Measurement, PaperClaim, Subject, unit_columns
from buildup.diagnostics.feature_maps import LEAST_SIDE, spatial_variance, spectrum
from buildup.diagnostics.figures import BLUE, ORANGE, SKY, Figure, Row, Rows, Table, panels_of, shade
from buildup.diagnostics.hooks import intercept
from buildup.diagnostics.predictions import evaluate
from buildup.diagnostics.units import Unit
from buildup.models.trace import Site, hook_blocks

Treatment = Literal["branch", "convolution", "convolution, sampled"]


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockEffect:
    lesion: float
    """Points of accuracy lost when all of them are removed at once. Batch norms keep their statistics."""
    variance: float | None
    """The spatial variance of a block's output divided by that of its input; geometric mean over the blocks."""
    frequency: float | None
    """The increase of the log amplitude of the highest frequency; mean over the blocks. None below 3 x 3 pixels."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Removal:
    """One way to remove one unit."""

    unit: Unit
    treatment: Treatment
    site: Site


def find_removals(model: nn.Module, units: Sequence[Unit]) -> tuple[Removal, ...]:
    """All removals, in the order of the units. A unit without a branch or a removable convolution has none."""
    modules = dict(model.named_modules())
    found = []
    for unit in units:
        if unit.kind in ("stem", "head", "subsampling"):
            continue
        convs = {path: module for path in reversed(unit.convs) if isinstance(module := modules[path], nn.Conv2d)}
        removable = [path for path, conv in convs.items() if conv.in_channels == conv.out_channels]
        if unit.kind == "conv" and removable:
            sampled = max(convs[removable[0]].stride) > 1
            treatment: Treatment = "convolution, sampled" if sampled else "convolution"
            found.append(Removal(unit=unit, treatment=treatment, site=Site(path=removable[0])))
        if unit.join is not None and (unit.kind != "conv" or not removable or unit.subsamples):
            found.append(Removal(unit=unit, treatment="branch", site=unit.join))
    return tuple(found)


def without_units(model: nn.Module, *removals: Removal) -> AbstractContextManager[None]:
    """Run the model without these inside the `with`. Weights stay as they are."""
    return intercept(model, {removal.site: partial(_replacement, removal) for removal in removals})


class Lesions(Measurement):
    """The accuracy without each unit; batch norms keep their statistics. One row per removal."""

    name = "lesion"
    title = "Accuracy without a unit"
    caption = "Change of accuracy when one branch, or one convolution of a block, is removed without retraining."

    claims = (
        PaperClaim(
            column="conv_start_minus_end",
            words="the first convolution of a stage matters more than its last",
            sign=-1,
            of_each="the last convolution of a stage matters as much as its first, or more",
        ),
    )

    def work(self, subject: Subject) -> tuple[int, int]:
        return len(find_removals(subject.model, subject.units)), len(subject.images.labels)

    def measure(self, subject: Subject, done: Rows) -> Iterator[Rows]:
        intact = evaluate(subject.model, subject.labelled_batches()).accuracy
        for removal in find_removals(subject.model, subject.units)[len(done) :]:
            with without_units(subject.model, removal):
                found = evaluate(subject.model, subject.labelled_batches())
            columns = {**unit_columns(removal.unit), "treatment": removal.treatment, "intact": intact}
            change = found.accuracy - intact
            yield [{**columns, "accuracy": found.accuracy, "change": change, "nll": found.nll}]

    def summary(self, rows: Rows) -> Row:
        worst = min(rows, key=lambda row: row["change"])
        stages: dict[int, dict[int, float]] = {}
        for row in rows:
            if row["kind"] == "conv":  # of a block with two removals, the first: its convolution
                stages.setdefault(row["stage"], {}).setdefault(row["unit"], row["change"])
        changes = [list(units.values()) for units in stages.values() if len(units) > 1]
        between = [own[0] - own[-1] for own in changes]
        start = {"conv_start_minus_end": fmean(between)} if between else {}
        return {"worst": worst["name"], "worst_change": worst["change"], **start}

    def figure(self, tables: Sequence[Table]) -> Figure:
        figure, panels = panels_of(tables, 4.6, 3.1, sharey=True)
        for axes, table in zip(panels[0], tables, strict=True):
            shade(axes, table)
            styles = {"branch": (ORANGE, "s"), "convolution": (BLUE, "o"), "convolution, sampled": (SKY, "o")}
            for treatment, (colour, marker) in styles.items():
                own = [row for row in table.rows if row["treatment"] == treatment]
                if own:
                    places = [table.depth(row["unit"]) for row in own]
                    changes = [row["change"] for row in own]
                    axes.vlines(places, 0, changes, color=colour, lw=1.4)
                    axes.plot(places, changes, marker, color=colour, ms=5, label=f"without its {treatment}")
            axes.axhline(0, color="black", lw=0.8)
            axes.set(xlabel="normalised depth", ylabel="Δ accuracy (points)", title=table.label, xlim=(-0.02, 1.02))
            axes.legend(fontsize=7, loc="lower right")
        return figure


def _replacement(removal: Removal, result: Tensor, inputs: tuple[Any, ...]) -> Tensor:
    # A copy, because an activation may overwrite it, and it may be the input of the block.
    if removal.treatment == "branch":
        shortcut: Tensor = inputs[removal.unit.skip]
        return shortcut.expand_as(result).clone()
    source: Tensor = inputs[0]
    rows, columns = (-(-before // after) for before, after in zip(source.shape[2:], result.shape[2:], strict=True))
    return source[:, :, ::rows, ::columns].clone()


def measure_blocks(
    model: nn.Module, paths: Sequence[str], batches: Callable[[], LabelledBatches], *, channels_last: bool = False
) -> BlockEffect:
    """The effect of the blocks at these paths, whose outputs have the shape of their inputs. The model stays as it is.

    `batches` returns the same images with labels at each call. With `channels_last`, the maps of the blocks are height
    x width x channels.
    """
    before, after, rises = (dict.fromkeys(paths, 0.0) for _ in range(3))  # sums over the images

    def add(path: str, inputs: Tensor, outputs: Tensor) -> None:
        old, new = (maps.permute(0, 3, 1, 2) if channels_last else maps for maps in (inputs, outputs))
        before[path] += len(new) * spatial_variance(old)
        after[path] += len(new) * spatial_variance(new)
        rise = spectrum(new).high - spectrum(old).high if min(new.shape[2:]) >= LEAST_SIDE else nan
        rises[path] += len(new) * rise

    with hook_blocks(model, paths, add):
        intact = evaluate(model, batches())
    with hook_blocks(model, paths, lambda path, inputs, outputs: inputs):
        without = evaluate(model, batches())
    ratios = [after[path] / before[path] for path in before if before[path] > 0 and after[path] > 0]
    rise = fmean(rises.values()) / len(intact.correct)
    return BlockEffect(
        lesion=intact.accuracy - without.accuracy,
        # A stage that grew by two blocks is named twice, of which only the last is measured.
        variance=exp(fmean(map(log, ratios))) if len(ratios) == len(paths) else None,
        frequency=rise if len(rises) == len(paths) and not isnan(rise) else None,
    )
