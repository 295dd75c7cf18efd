"""The status of a run, as text and as plain values for JSON. It is read without torch."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import fmean
from typing import Any

from buildup.engine.clean import size_of
from buildup.engine.forecast import forecast, left
from buildup.engine.load_state import read_final, read_plan, replay_of, warnings_of, winner_gain
from buildup.engine.replay import View
from buildup.errors import BuildupError, RunError, command
from buildup.report.diagnostic_table import LEVEL
from buildup.report.text_table import ColumnKind, TextTable, aligned, decisions_table, final_table, growth
from buildup.report.words import duration, short_edit, sparkline
from buildup.store.run_dir import DECISIONS, driver_of, read_decisions
from buildup.store.run_record import RunRecord, open_record
from buildup.store.study_reader import read_underway
from buildup.trials.final_result import final_to_values
from buildup.trials.history import History
from buildup.trials.objective import OBJECTIVES, Objective
from buildup.trials.outcome import Epoch


def status_of(run: RunRecord) -> tuple[str, str]:
    """The status of a run and the reason for it. A run is stopped if its process is gone, whatever it wrote last."""
    if run.status == "running" and not driver_of(run.folder):
        return "stopped", "its driver is gone"
    return run.status, run.reason


def status_values(run: RunRecord, view: View, history: History) -> dict[str, Any]:
    state, reason = status_of(run)
    is_over = view.ended or (view.finished and state == "finished")
    found = read_final(run.folder)
    replay = replay_of(run)
    eta = forecast(replay, view, history, workers=run.settings.workers, epochs=run.settings.epochs)
    waiting_for, ahead = _trainings(run, view, history)
    return {
        "run": str(run.folder),
        "status": state,
        "reason": reason,
        "driver": driver_of(run.folder),
        "base": run.settings.base,
        "dataset": run.settings.dataset,
        "objective": run.settings.objective,
        "layout": view.best.layout,
        "trainings": len(history.outcomes),
        "waiting_for": waiting_for,
        "ahead": ahead,
        "verdicts": verdict_values(view),
        "gain": gain_values(run, view),
        "left": None if is_over else left(replay, view, eta),
        "eta": asdict(eta) if eta else None,
        "final": found and final_to_values(found),
        "warnings": list(warnings_of(run, view, history)),
    }


def gain_values(run: RunRecord, view: View) -> dict[str, float] | None:
    """The gain of the best network over the base, corrected for the selection of its steps; None where unknown."""
    if (gain := winner_gain(run, view)) is None:
        return None
    low, high = gain.interval(LEVEL)
    return {"estimate": gain.mean, "low": low, "high": high, "level": LEVEL}


def status_text(run: RunRecord, view: View, values: dict[str, Any], *, width: int | None = None) -> str:
    """The status of a run as text, from its `status_values`; with a width, its tables are short ones."""
    found = read_final(run.folder)
    objective = OBJECTIVES[run.settings.objective]
    reason = f" ({values['reason']})" if values["reason"] else ""
    grown = (
        growth(view.best.network, view.current.network if view.current else None) if values["left"] is not None else []
    )
    lines = [
        f"{run.folder}: {values['status']}{reason}",
        f"{run.title}, now {view.best.layout}",
        *(f"  {line}" for line in aligned(grown)),
        *([f"trainings in {run.remote_trainings}"] if run.remote_trainings else []),
    ]
    if found:
        lines += ["", found.verdict, "", final_table(found, width=width)]
    if view.decisions:
        lines += ["", decisions_table(view.decisions, view.climb, width=width)]
    if read_plan(run) and not found:
        lines += ["", f"a final has begun; go on with: {command('final', run.folder)}"]
    if values["left"] is not None:
        for heading, rows in (("waiting for", values["waiting_for"]), ("begun ahead of the verdicts", values["ahead"])):
            lines += ["", running_table(rows, objective, heading, width=width)] if rows else []
        lines += ["", values["left"]]
        if values["status"] != "running":
            lines.append(f"go on with: {command('resume', run.folder)}")
    return "\n".join([*lines, *(f"warning: {warning}" for warning in values["warnings"])])


def _trainings(run: RunRecord, view: View, history: History) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The trainings that the current verdict or the end needs, and those that were started ahead of it."""
    objective = OBJECTIVES[run.settings.objective]
    usual = run.settings.epochs
    own = {one.id: one.candidate.epochs(usual) for one in view.checks}

    def row(training: str, edit: str, seed: int) -> dict[str, Any]:
        curve = history.curves.get(training, ())
        return {"training": training, **progress(edit, seed, curve, own.get(training, usual), objective)}

    waited = view.checks if view.finished else view.needed
    needed = {one.id: row(one.id, one.candidate.edit, one.seed) for one in waited}
    if view.finished:
        return list(needed.values()), []
    begun = read_underway(run.folder, run.settings.storage, run.study_name, run.other_epochs)
    ahead = [
        row(training, str(known["edit"]), int(known["seed"]))
        for training, known in begun.items()
        if training not in {*history.outcomes, *needed}
    ]
    return list(needed.values()), ahead


def progress(edit: str, seed: int, curve: Sequence[Epoch], epochs: int, objective: Objective) -> dict[str, Any]:
    values = [value for epoch in curve if (value := objective.at(epoch)) is not None]
    seconds = [epoch.metrics["seconds"] for epoch in curve if "seconds" in epoch.metrics]
    return {
        "edit": edit or "the base",
        "seed": seed,
        "epoch": len(curve),
        "epochs": epochs,
        "score": objective.at(curve[-1]) if curve else None,
        "curve": values,
        "seconds_left": fmean(seconds) * (epochs - len(curve)) if seconds else None,
    }


def running_table(
    rows: Sequence[Mapping[str, Any]], objective: Objective, heading: str, *, width: int | None = None
) -> str:
    """A line for each training that runs: epoch, score, curve, the time that is left, and its worker if that is said.

    Where it is wider than `width`, it has neither workers nor curves.
    """
    scores = ["" if row["score"] is None else objective.shown(row["score"]) for row in rows]
    left = ["" if row["seconds_left"] is None else duration(row["seconds_left"]) for row in rows]
    workers = [row.get("worker", "") for row in rows]
    worker: list[tuple[str, ColumnKind, list[str]]] = [("worker", "text", workers)] if any(workers) else []
    return TextTable.by_column(
        (heading, "text", [f"{short_edit(row['edit'])}  seed {row['seed']}" for row in rows]),
        ("epoch", "number", [f"{row['epoch']}/{row['epochs']}" for row in rows]),
        (objective.name, "number", scores),
        ("curve", "text", [sparkline(row["curve"]) for row in rows]),
        ("left", "number", left),
        *worker,
    ).text(width=width, less=("worker", "curve") if worker else ("curve",))


def verdict_values(view: View) -> list[dict[str, Any]]:
    return [
        {
            "step": decision.step,
            "layout": decision.layout,
            "verdict": decision.verdict,
            "reason": decision.reason,
            "mark": view.climb.mark if view.climb and view.climb.marks(decision) else "",
        }
        for decision in view.decisions
    ]


def list_runs(place: Path) -> list[dict[str, Any]]:
    """What is known of each run in a folder without its study, the newest first.

    The usual folder need not be there yet.
    """
    if not place.is_dir() and place != Path("runs"):
        raise RunError(f"{place}: there is no such folder.")
    rows = [_row(path.parent) for path in place.glob("*/run.yaml")]
    return sorted(rows, key=lambda row: float(row["changed"]), reverse=True)


def _row(folder: Path) -> dict[str, Any]:
    values: dict[str, Any] = {"run": str(folder), "size": size_of(folder)}
    values["changed"] = (folder / "run.yaml").stat().st_mtime
    try:
        run = open_record(str(folder.absolute()))
        final = read_final(folder)
    except BuildupError as problem:
        return {**values, "status": "damaged", "base": None, "dataset": None, "verdict": str(problem)}
    decisions = read_decisions(folder / DECISIONS)
    kept = f"{sum(one.kept for one in decisions)} of {len(decisions)} kept"
    claim = f"{kept}, {'proven' if final.claims[0].claimed else 'not proven'}" if final else kept
    own = {"base": run.settings.base, "dataset": run.settings.dataset}
    return {**values, **own, "status": status_of(run)[0], "verdict": claim, "final": final and final.verdict}
