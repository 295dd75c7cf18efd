"""Plans, results and the status of runs, as text and as plain values for JSON."""

from dataclasses import asdict
from typing import Any

from buildup.engine.final import read_plan
from buildup.engine.forecast import forecast
from buildup.engine.load_state import read_final, replay_of, state_of, warnings_of
from buildup.engine.plan import MOST_ROWS, Plan
from buildup.engine.progress import left
from buildup.engine.replay import View
from buildup.engine.search import SearchResult
from buildup.report.text_table import PlanRow, candidates_table, decisions_table, final_table
from buildup.report.words import duration
from buildup.space.schema import describe_tuning, describe_walk
from buildup.store.run_dir import driver_of
from buildup.store.run_record import RunRecord
from buildup.store.study_reader import read_underway
from buildup.strategies.moves import left_out
from buildup.strategies.registered import STRATEGIES
from buildup.training.health import recipe_warning, validation_warning
from buildup.trials.final_result import final_to_values
from buildup.trials.history import History
from buildup.trials.objective import OBJECTIVES, Objective
from buildup.trials.training import CHECKS


def plan_text(made: Plan) -> str:
    """A plan as text: the candidates, and the expected trainings and duration."""
    request, settings, data = made.request, made.request.settings, made.request.data
    rows = [
        PlanRow(
            number=number,
            layout=estimate.candidate.layout,
            edit=estimate.candidate.edit or "the base",
            params=estimate.cost.params,
            macs=estimate.cost.macs,
            role="base" if number == 0 else "first" if number == 1 else "possible",
        )
        for number, estimate in enumerate(made.estimates)
    ]
    lines = [
        f"{settings.base} on {settings.dataset}: {data.train_images:,} images to train on, {data.val_images:,} "
        f"to validate on, {data.image_size} px, stem {request.network.stem}.",
        f"Space {request.space.name}: {describe_walk(request.space)}.",
        f"Judge {settings.judge}, by the {OBJECTIVES[settings.objective].title}.",
    ]
    if warning := STRATEGIES[settings.strategy].unused(request.space):
        lines.append(warning)
    elif request.space.tune:
        lines.append(f"Where a block was kept: {describe_tuning(request.space.tune)}.")
        lines += [f"{problem}." for problem in left_out(request.network, request.space)]
    if not data.present:
        lines.append(f"{settings.dataset} is not on this disk yet; a search fetches it first.")
    found = recipe_warning(request.network, request.recipe), validation_warning(request.data.val_images)
    lines += filter(None, found)
    lines += ["", candidates_table(rows), ""]
    if len(made.estimates) >= MOST_ROWS:
        lines.append(f"Only the first {MOST_ROWS} candidates are listed.")
    shape = f"{_range(*made.networks)} networks x {_range(*made.seeds)} seeds"
    if made.ended_by:
        limits = " and ".join(made.ended_by)
        shape = f"{limits} counted in; without, {_range(*made.whole_trainings)}, {shape}"
    hours = made.expected.trainings * made.each * settings.gpus_per_trial / 3600
    gpu_hours = f", {hours:.2g} GPU-hours" if hours else ""
    lines += [
        f"{_range(*made.trainings)} trainings ({shape}), {settings.epochs} epochs each.",
        *(
            f"One more of {CHECKS[check]} ({epochs} epochs, about {duration(seconds)})."
            for check, (epochs, seconds) in made.checks.items()
        ),
        f"About {duration(made.each)} a training on {settings.device} with {settings.threads} threads "
        f"({made.images_per_second:.1f} images/s while training, measured now), "
        f"{_range(*map(duration, made.seconds))} in all on {settings.workers} workers.",
        f"Expected, with verdicts by chance: {round(made.expected.trainings)} trainings, about "
        f"{duration(made.expected.seconds)} (8 of 10 searches {duration(made.expected.low)} to "
        f"{duration(made.expected.high)}){gpu_hours}.",
    ]
    return "\n".join(lines)


def _range(low: object, high: object) -> str:
    return str(low) if low == high else f"{low} to {high}"


def summary(result: SearchResult) -> str:
    """A result as text: the decisions and the next commands. If the search stopped early, how to resume it."""
    record, view = result.record, result.view
    if not view.finished:
        return f"Stopped: {record.reason}. Go on with: buildup resume {record.folder}"
    same = "No replacement was kept: the base stays as it is." if view.best is view.candidates[0] else ""
    lines = [
        decisions_table(view.decisions, view.climb),
        "",
        f"{record.settings.base} became {view.best.layout}. {same}".strip(),
        *([str(view.rounding)] if view.rounding else []),
        *(f"warning: {warning}" for warning in warnings_of(record, view)),
        "",
        "Next:",
        f"  {record.folder / 'report.html'}  the evidence for each decision, in a browser",
        f"  {record.folder / 'export'}  the network as a timm model; its README.md says how to load it",
        f"  buildup final {record.folder}  train winner and base anew, open the test set once, and say what is proven",
        f"  buildup dashboard {record.folder}  curves and timeline",
        f"  buildup export {record.folder} --to DIR  the same network, or another candidate, elsewhere",
    ]
    return "\n".join(lines)


def result_to_values(result: SearchResult) -> dict[str, Any]:
    """A result as plain values, for JSON."""
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
        "verdicts": _verdicts(view),
        "rounding": view.rounding and {"difference": view.rounding.difference, "images": view.rounding.images},
        "warnings": list(warnings_of(record, view)),
    }


def _verdicts(view: View) -> list[dict[str, Any]]:
    return [
        {
            "step": decision.step,
            "layout": decision.layout,
            "verdict": decision.verdict,
            "reason": decision.reason,
            "still_climbing": bool(view.climb and view.climb.marks(decision)),
        }
        for decision in view.decisions
    ]


def status_of(run: RunRecord) -> tuple[str, str]:
    """The status of a run and the reason for it. A run is stopped if its process is gone, whatever it wrote last."""
    if run.status == "running" and not driver_of(run.folder):
        return "stopped", "its driver is gone"
    return run.status, run.reason


def status_values(run: RunRecord) -> dict[str, Any]:
    """The status of a run as plain values: running trainings, decisions, and what is left."""
    view, history = state_of(run)
    state, reason = status_of(run)
    is_over = view.ended or (view.finished and state == "finished")
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
        "verdicts": _verdicts(view),
        "left": None if is_over else left(replay, view, history, workers=workers, epochs=epochs),
        "eta": asdict(eta) if eta else None,
        "final": found and final_to_values(found),
        "warnings": list(warnings_of(run, view)),
    }


def status_text(run: RunRecord, values: dict[str, Any]) -> str:
    """The status of a run as text, from its record and its `status_values`."""
    view, _ = state_of(run)
    found = read_final(run.folder)
    objective = OBJECTIVES[run.settings.objective]
    reason = f" ({values['reason']})" if values["reason"] else ""
    lines = [
        f"{run.folder}: {values['status']}{reason}",
        f"{run.title}, now {view.best.layout}",
    ]
    if found:
        lines += ["", found.verdict, "", final_table(found)]
    if view.decisions:
        lines += ["", decisions_table(view.decisions, view.climb)]
    if read_plan(run) and not found:
        lines += ["", f"a final has begun; go on with: buildup final {run.folder}"]
    if values["left"] is not None:
        lines += ["", "waiting for:", *(_line(row, objective) for row in values["waiting_for"])]
        if values["ahead"]:
            lines += ["begun ahead of the verdicts:", *(_line(row, objective) for row in values["ahead"])]
        lines.append(values["left"])
        if values["status"] != "running":
            lines.append(f"go on with: buildup resume {run.folder}")
    return "\n".join([*lines, *(f"warning: {warning}" for warning in warnings_of(run, view))])


def _trainings(run: RunRecord, view: View, history: History) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The trainings that the current verdict or the end needs, and those that were started ahead of it."""
    objective = OBJECTIVES[run.settings.objective]

    usual = run.settings.epochs
    own = {one.id: one.candidate.epochs(usual) for one in view.checks}

    def row(training: str, edit: str, seed: int) -> dict[str, Any]:
        curve = history.curves.get(training, ())
        score = objective.at(curve[-1]) if curve else None
        reached = {"epoch": len(curve), "epochs": own.get(training, usual), "score": score}
        return {"training": training, "edit": edit or "the base", "seed": seed, **reached}

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


def _line(row: dict[str, Any], objective: Objective) -> str:
    score = "" if row["score"] is None else f", {objective.name} {objective.shown(row['score'])}"
    return f"  {row['edit']}  seed {row['seed']}: epoch {row['epoch']} of {row['epochs']}{score}"
