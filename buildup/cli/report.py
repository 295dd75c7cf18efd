"""`report`: one run as a page or as Markdown, also while it runs; or several runs side by side."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from buildup.cli.show import how_it_walks
from buildup.engine.diagnostic_evidence import evidence_of
from buildup.engine.export import findings_of
from buildup.engine.load_state import state_of
from buildup.engine.problems import Problems
from buildup.report.compare import comparison_page, comparison_table, comparison_text
from buildup.report.comparison import Compared, compared, comparison_values
from buildup.report.diagnostic_table import Evidence
from buildup.report.page import markdown, page
from buildup.store.atomic_write import write_atomic
from buildup.store.run_dir import Run, folder_of, open_run
from buildup.store.verdict_diagnostics import read_diagnoses
from buildup.training.recipe import recipe_from_values

COMPARISON = "comparison.html"


def report(flags: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """Write the report of one run, or the comparison of several."""
    problems = Problems()
    runs = []
    named = {folder_of(name).absolute(): name for name in flags["run"]}
    for name in named.values():
        with problems.caught():
            runs.append(open_run(name))
    form = problems.choice("format", flags["format"], "html", ("html", "md"))
    if flags["to"] and len(named) == 1:
        problems.found.append("--to is for a comparison of several runs; a run's own report lies in its folder.")
    elif flags["to"] and form == "md":
        problems.found.append("--to is for the page; --format md prints. Leave one of them out.")
    elif flags["to"] and not Path(flags["to"]).absolute().parent.is_dir():
        problems.found.append(f"--to {flags['to']}: its folder does not exist.")
    problems.raise_any()
    return _one(runs[0], form) if len(runs) == 1 else _several(runs, form, flags["to"])


def _one(run: Run, form: str) -> tuple[str, dict[str, Any]]:
    findings = findings_of(run, *state_of(run))
    if form == "md":
        return markdown(findings), {"markdown": markdown(findings)}
    path = run.folder / "report.html"
    write_atomic(path, page(findings).encode())
    return f"{path}: written.", {"report": str(path)}


def _several(runs: list[Run], form: str, target: str | None) -> tuple[str, dict[str, Any]]:
    rows = [_compared(run) for run in runs]
    values = comparison_values(rows)
    evidence = _evidence(runs)
    if form == "md":
        return comparison_text(rows, evidence), values
    path = Path(target) if target else runs[0].folder.parent / COMPARISON
    write_atomic(path, comparison_page(rows, evidence).encode())
    return f"{comparison_table(rows)}\n\n{path}: written.", {"report": str(path), **values}


def _evidence(runs: list[Run]) -> Evidence | None:
    """What goes with the gains of those runs whose verdicts were measured."""
    known = {
        str(run.folder): (state_of(run)[0].decisions, found) for run in runs if (found := read_diagnoses(run.folder))
    }
    return evidence_of(known) if known else None


def _compared(run: Run) -> Compared:
    view, history = state_of(run)
    settings = run.settings
    recipe, execution = recipe_from_values(run.recipe), settings.execution
    memory = "channels-last" if execution.channels_last else "channels-first"
    facts = {
        "base": f"{settings.base} at {settings.image_size} px, {view.candidates[0].layout}",
        "stem": run.network.stem,
        "dataset": settings.dataset,
        "data hash": str(run.data["hash"])[:12],
        "validation images": f"split by seed {run.data['split_seed']}",
        "recipe": f"{settings.recipe}: batch {recipe.batch_size}, rate {recipe.lr:.4g}",
        "epochs": str(settings.epochs),
        "fraction": settings.fraction,
        "objective": settings.objective,
        "start": str(settings.pretrained or "fresh weights"),
        "precision": execution.precision,
        "space": f"{run.space.name}: {how_it_walks(run.space)}",
        "judge": settings.judge,
        "seeds": str(settings.seeds),
        "first seed": str(settings.seed),
        "steps": f"{memory}, {execution.steps}{', deterministic' if execution.deterministic else ''}",
        "device": settings.device.partition(":")[0],
        "torch": str(run.environment.get("versions", {}).get("torch")),
    }
    return compared(findings_of(run, view, history), facts)
