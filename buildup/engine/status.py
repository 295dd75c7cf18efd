"""Where a run stands, read from its study without touching it."""

from dataclasses import asdict
from typing import Any

from buildup.engine.final_run import read_final, read_plan
from buildup.engine.forecast import forecast
from buildup.engine.load_state import replay_of, state_of
from buildup.engine.progress import left
from buildup.engine.replay import View
from buildup.report.final_table import final_table
from buildup.report.text_table import decisions_table
from buildup.store.run_dir import driver_of
from buildup.store.run_record import RunRecord
from buildup.store.study_reader import read_underway
from buildup.trials.final_result import final_to_values
from buildup.trials.history import History
from buildup.trials.objective import OBJECTIVES, Objective


def status_of(run: RunRecord) -> tuple[str, str]:
    """How a run stands, and why: a run whose driver is gone is stopped, whatever it wrote last."""
    if run.status == "running" and not driver_of(run.folder):
        return "stopped", "its driver is gone"
    return run.status, run.reason


def status_values(run: RunRecord) -> dict[str, Any]:
    """What runs, what was decided and what is left, as plain values."""
    view, history = state_of(run)
    state, reason = status_of(run)
    found = read_final(run.folder)
    replay, workers, epochs = replay_of(run), run.settings.workers, run.settings.epochs
    eta = forecast(replay, view, history, workers=workers, epochs=epochs)
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
        "verdicts": [
            {"step": decision.step, "layout": decision.layout, "verdict": decision.verdict, "reason": decision.reason}
            for decision in view.decisions
        ],
        "left": None if view.finished else left(replay, view, history, workers=workers, epochs=epochs),
        "eta": asdict(eta) if eta else None,
        "final": found and final_to_values(found),
        "warnings": list(run.warnings),
    }


def status_text(run: RunRecord, values: dict[str, Any]) -> str:
    """The same for people."""
    view, _ = state_of(run)
    found = read_final(run.folder)
    objective = OBJECTIVES[run.settings.objective]
    reason = f" ({values['reason']})" if values["reason"] else ""
    lines = [
        f"{run.folder}: {values['status']}{reason}",
        f"{run.settings.base} on {run.settings.dataset}, now {view.best.layout}",
    ]
    if view.decisions:
        lines += ["", decisions_table(view.decisions)]
    if read_plan(run) and not found:
        lines += ["", f"a final has begun; go on with: buildup final {run.folder}"]
    if found:
        lines += ["", final_table(found), "", found.verdict]
    if not view.finished:
        lines += ["", "waiting for:", *(_line(row, objective) for row in values["waiting_for"])]
        if values["ahead"]:
            lines += ["begun ahead of the verdicts:", *(_line(row, objective) for row in values["ahead"])]
        lines.append(values["left"])
        if values["status"] != "running":
            lines.append(f"go on with: buildup resume {run.folder}")
    return "\n".join([*lines, *(f"warning: {warning}" for warning in run.warnings)])


def _trainings(run: RunRecord, view: View, history: History) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The trainings that the current verdict waits for, and those that were begun ahead of it."""
    objective = OBJECTIVES[run.settings.objective]

    def row(training: str, edit: str, seed: int) -> dict[str, Any]:
        curve = history.curves.get(training, ())
        score = objective.at(curve[-1]) if curve else None
        reached = {"epoch": len(curve), "epochs": run.settings.epochs, "score": score}
        return {"training": training, "edit": edit or "the base", "seed": seed, **reached}

    needed = {one.id: row(one.id, one.candidate.edit, one.seed) for one in view.needed}
    if view.finished:
        return list(needed.values()), []
    begun = read_underway(run.folder, run.settings.storage, run.study_name, run.other_epochs)
    ahead = [
        row(training, str(known["edit"]), int(known["seed"]))
        for training, known in begun.items()
        if training not in {*history.outcomes, *needed}
    ]
    return list(needed.values()), ahead


def _line(row: dict[str, Any], objective: Objective) -> str:
    score = "" if row["score"] is None else f", {objective.name} {objective.shown(row['score'])}"
    return f"  {row['edit']}  seed {row['seed']}: epoch {row['epoch']} of {row['epochs']}{score}"
