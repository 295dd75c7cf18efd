"""Plans and results of searches, as text and as plain values for JSON."""

from typing import Any

from buildup.engine.load_state import warnings_of
from buildup.engine.plan import MOST_ROWS, Plan
from buildup.engine.reports import findings_of
from buildup.engine.request import cautions
from buildup.engine.search import SearchResult
from buildup.engine.status import gain_values, verdict_values
from buildup.errors import command, counted
from buildup.report.text_table import TextTable, decisions_table
from buildup.report.words import duration, short_edit, short_number
from buildup.space.schema import describe_tuning, describe_walk
from buildup.strategies.moves import added_blocks, left_out
from buildup.strategies.registered import STRATEGIES
from buildup.trials.objective import OBJECTIVES
from buildup.trials.training import CHECKS


def plan_text(made: Plan, *, width: int | None = None) -> str:
    """A plan as text: the candidates, and the expected trainings and duration; a short table where it has a width."""
    request, settings, data = made.request, made.request.settings, made.request.data
    lines = [
        f"{settings.base} on {settings.dataset}: {data.train_images:,} images to train on, {data.val_images:,} "
        f"to validate on, {data.image_size} px, stem {request.network.stem}.",
        f"Space {request.space.name}: {describe_walk(request.space)}.",
        f"Judge {settings.judge}, by the {OBJECTIVES[settings.objective].title}.",
    ]
    lines += filter(None, [added_blocks(request.network, request.space)])
    if warning := STRATEGIES[settings.strategy].unused(request.space):
        lines.append(warning)
    elif request.space.tune:
        lines.append(f"Where a block was kept: {describe_tuning(request.space.tune)}.")
        lines += [f"{problem}." for problem in left_out(request.network, request.space)]
    if not data.present:
        lines.append(f"{settings.dataset} is not on this disk yet; a search fetches it first.")
    lines += cautions(request)
    lines += ["", _candidates(made, width), ""]
    if len(made.estimates) >= MOST_ROWS:
        lines.append(f"Only the first {MOST_ROWS} candidates are listed.")
    shape = f"{_range(*made.networks, 'network')} x {_range(*made.seeds, 'seed')}"
    if made.ended_by:
        limits = " and ".join(made.ended_by)
        shape = f"{limits} counted in; without, {_range(*made.whole_trainings)}, {shape}"
    measured = f"measured {made.measured}; --anew measures again" if made.measured else "measured now"
    hours = made.expected.trainings * made.each * settings.gpus_per_trial / 3600
    gpu_hours = f", {hours:.2g} GPU-hours" if hours else ""
    lines += [
        f"{_range(*made.trainings, 'training')} ({shape}), {counted(settings.epochs, 'epoch')} each.",
        *(
            f"One more of {CHECKS[check]} ({counted(epochs, 'epoch')}, about {duration(seconds)})."
            for check, (epochs, seconds) in made.checks.items()
        ),
        f"About {duration(made.each)} a training on {settings.device} with {counted(settings.threads, 'thread')} "
        f"({made.images_per_second:.1f} images/s while training, {measured}), "
        f"{_range(*map(duration, made.seconds))} in all on {counted(settings.workers, 'worker')}.",
        f"Expected, with verdicts by chance: {counted(round(made.expected.trainings), 'training')}, about "
        f"{duration(made.expected.seconds)} (8 of 10 searches {duration(made.expected.low)} to "
        f"{duration(made.expected.high)}){gpu_hours}.",
    ]
    return "\n".join(lines)


def _candidates(made: Plan, width: int | None) -> str:
    """The candidates as a table. The first one is always tried, the possible ones only after certain verdicts."""
    estimates, count = made.estimates, len(made.estimates)
    edits = [estimate.candidate.edit or "the base" for estimate in estimates]
    return TextTable.by_column(
        ("no.", "number", map(str, range(count))),
        ("role", "text", ["base", "first", *["possible"] * count][:count]),
        ("layout", "layout", [estimate.candidate.layout for estimate in estimates]),
        ("edit", "code", edits if width is None else map(short_edit, edits)),
        ("params", "number", [short_number(estimate.cost.params) for estimate in estimates]),
        ("MACs", "number", [short_number(estimate.cost.macs) for estimate in estimates]),
    ).text(width=width, less=("MACs", "params"))


def _range(low: object, high: object, noun: str = "") -> str:
    if noun and low == high:
        return counted(int(str(high)), noun)
    span = str(low) if low == high else f"{low} to {high}"
    return f"{span} {noun}s" if noun else span


def summary(result: SearchResult, *, width: int | None = None) -> str:
    """A result as text: the decisions, the result in one sentence, and the next commands.

    If the search stopped early, how to resume it. With a width, the table is a short one.
    """
    record, view = result.record, result.view
    if not view.finished:
        return f"Stopped: {record.reason}. Go on with: {command('resume', record.folder)}"
    findings = findings_of(record, view, result.history)
    final = f"  {command('final', record.folder)}  prove it: train anew, open the test set"
    lines = [
        decisions_table(view.decisions, view.climb, width=width),
        "",
        *([] if findings.unchanged else [f"{record.settings.base} became {view.best.layout}."]),
        findings.headline,
        *([findings.estimated] if findings.estimated and not findings.final else []),
        *([str(view.rounding)] if view.rounding else []),
        *(f"warning: {warning}" for warning in warnings_of(record, view, result.history)),
        "",
        "Next:",
        *([] if findings.unchanged or findings.final else [final]),
        f"  {record.folder / 'report.html'}  the evidence for each decision, in a browser",
        f"  {record.folder / 'export'}  the network as a timm model; see its README.md",
        f"  {command('dashboard', record.folder)}  curves and timeline",
        f"  {command('export', record.folder, '--to', 'DIR')}  this network or another one",
    ]
    return "\n".join(lines)


def result_to_values(result: SearchResult) -> dict[str, Any]:
    record, view = result.record, result.view
    return {
        "run": str(record.folder),
        "status": record.status,
        "reason": record.reason,
        "base": record.settings.base,
        "dataset": record.settings.dataset,
        "layout": view.best.layout,
        "fingerprint": view.best.id,
        "trainings": len(result.history.outcomes),
        "verdicts": verdict_values(view),
        "gain": gain_values(record, view),
        "rounding": view.rounding and {"difference": view.rounding.difference, "images": view.rounding.images},
        "warnings": list(warnings_of(record, view, result.history)),
    }
