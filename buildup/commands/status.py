"""`status`: where a run stands, read from its study without touching it."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from buildup.commands.progress import left, name_of, reached
from buildup.report.final import final_table
from buildup.report.table import decisions_table
from buildup.search.final import read_final, read_plan
from buildup.search.folder import open_run
from buildup.search.forecast import forecast
from buildup.search.lock import driver_of
from buildup.search.state import procedure, state_of
from buildup.trials.claim import final_to_values
from buildup.trials.objective import OBJECTIVES


def status(flags: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """What runs, what was decided and what is left, as text and as values."""
    run = open_run(flags["run"])
    view, history = state_of(run)
    driver = driver_of(run.folder)
    state = run.status if run.status != "running" or driver else "stopped"
    reason = run.reason if state == run.status else "its driver is gone"
    found = read_final(run.folder)
    steps, workers, epochs = procedure(run), run.settings.workers, run.settings.epochs_of
    objective = OBJECTIVES[run.settings.objective]
    rest = None if view.finished else left(steps, view, history, workers=workers, epochs=epochs)
    eta = forecast(steps, view, history, workers=workers, epochs=epochs)
    running = [
        {
            "training": training.id,
            "edit": training.candidate.edit or "the base",
            "seed": training.seed,
            "epoch": len(history.curves.get(training.id, ())),
            "epochs": run.settings.epochs_of(training.candidate),
            "score": next((objective.at(epoch) for epoch in history.curves.get(training.id, ())[-1:]), None),
        }
        for training in view.needed
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
        "waiting_for": running,
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
        lines += ["", "waiting for:"]
        for training, row in zip(view.needed, running, strict=True):
            score = reached(history.curves.get(training.id, ()), objective)
            so_far = f"{row['epoch']} of {row['epochs']}{f', {objective.name} {score}' if score else ''}"
            lines.append(f"  {name_of(training)}: epoch {so_far}")
        lines.append(str(rest))
        if state != "running":
            lines.append(f"go on with: buildup resume {run.folder}")
    lines += [f"warning: {warning}" for warning in run.warnings]
    return "\n".join(lines), values
