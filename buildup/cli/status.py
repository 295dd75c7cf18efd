"""`status`: where a run stands, read from its study without touching it."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from buildup.cli.progress import left
from buildup.engine.final_run import read_final, read_plan
from buildup.engine.forecast import forecast
from buildup.engine.load_state import procedure, state_of
from buildup.report.final_table import final_table
from buildup.report.text_table import decisions_table
from buildup.store.lock import driver_of
from buildup.store.run_dir import open_run
from buildup.store.study_reader import read_underway
from buildup.trials.final_result import final_to_values
from buildup.trials.objective import OBJECTIVES, Objective


def status(flags: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """What runs, what was decided and what is left, as text and as values."""
    run = open_run(flags["run"])
    view, history = state_of(run)
    driver = driver_of(run.folder)
    state = run.status if run.status != "running" or driver else "stopped"
    reason = run.reason if state == run.status else "its driver is gone"
    found = read_final(run.folder)
    steps, workers, epochs = procedure(run), run.settings.workers, run.settings.epochs
    objective = OBJECTIVES[run.settings.objective]
    rest = None if view.finished else left(steps, view, history, workers=workers, epochs=epochs)
    eta = forecast(steps, view, history, workers=workers, epochs=epochs)

    def row(training: str, edit: str, seed: int) -> dict[str, Any]:
        curve = history.curves.get(training, ())
        so_far = {"epoch": len(curve), "epochs": epochs, "score": objective.at(curve[-1]) if curve else None}
        return {"training": training, "edit": edit or "the base", "seed": seed, **so_far}

    waiting_for = [row(one.id, one.candidate.edit, one.seed) for one in view.needed]
    begun = {} if view.finished else read_underway(run.folder, run.settings.storage, run.study, run.apart)
    ahead = [
        row(training, str(known["edit"]), int(known["seed"]))
        for training, known in begun.items()
        if training not in {*history.outcomes, *(one.id for one in view.needed)}
    ]
    values = {
        "run": str(run.folder),
        "status": state,
        "reason": reason,
        "driver": driver,
        "base": run.settings.base,
        "dataset": run.settings.dataset,
        "objective": objective.name,
        "layout": view.best.layout,
        "trainings": len(history.outcomes),
        "waiting_for": waiting_for,
        "ahead": ahead,
        "verdicts": [
            {"step": decision.step, "layout": decision.layout, "verdict": decision.verdict, "reason": decision.reason}
            for decision in view.decisions
        ],
        "left": rest,
        "eta": asdict(eta) if eta else None,
        "final": found and final_to_values(found),
        "warnings": list(run.warnings),
    }
    lines = [
        f"{run.folder}: {state}{f' ({reason})' if reason else ''}",
        f"{run.settings.base} on {run.settings.dataset}, now {view.best.layout}",
    ]
    if view.decisions:
        lines += ["", decisions_table(view.decisions)]
    if read_plan(run) and not found:
        lines += ["", f"a final has begun; go on with: buildup final {run.folder}"]
    if found:
        lines += ["", final_table(found), "", found.verdict]
    if not view.finished:
        lines += ["", "waiting for:", *(_line(row, objective) for row in waiting_for)]
        lines += ["begun ahead of the verdicts:", *(_line(row, objective) for row in ahead)] if ahead else []
        lines.append(str(rest))
        if state != "running":
            lines.append(f"go on with: buildup resume {run.folder}")
    lines += [f"warning: {warning}" for warning in run.warnings]
    return "\n".join(lines), values


def _line(row: Mapping[str, Any], objective: Objective) -> str:
    score = "" if row["score"] is None else f", {objective.name} {objective.shown(row['score'])}"
    return f"  {row['edit']}  seed {row['seed']}: epoch {row['epoch']} of {row['epochs']}{score}"
