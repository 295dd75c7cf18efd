"""Reports of one run, and comparisons of several."""

from collections.abc import Sequence
from pathlib import Path

from buildup.engine.analysis.evidence import evidence_of
from buildup.engine.export import findings_of
from buildup.engine.load_state import state_of
from buildup.report.comparison import Compared, compared
from buildup.report.diagnostic_table import Evidence
from buildup.report.findings import Findings
from buildup.report.page import page
from buildup.space.describe import how_it_walks
from buildup.store.run_dir import read_diagnoses, write_atomic
from buildup.store.run_record import RunRecord


def report_of(run: RunRecord) -> Findings:
    """A run as the reports tell it, also while it runs."""
    return findings_of(run, *state_of(run))


def write_report(run: RunRecord) -> Path:
    """Write `report.html` of a run anew."""
    path = run.folder / "report.html"
    write_atomic(path, page(report_of(run)).encode())
    return path


def compare_runs(runs: Sequence[RunRecord]) -> tuple[list[Compared], Evidence | None]:
    """Several searches side by side, and what goes with the gains of their measured verdicts."""
    return [_compared(run) for run in runs], _evidence(runs)


def _evidence(runs: Sequence[RunRecord]) -> Evidence | None:
    """What goes with the gains of those runs whose verdicts were measured."""
    known = {
        str(run.folder): (state_of(run)[0].decisions, found) for run in runs if (found := read_diagnoses(run.folder))
    }
    return evidence_of(known) if known else None


def _compared(run: RunRecord) -> Compared:
    view, history = state_of(run)
    settings = run.settings
    recipe, execution = run.recipe, run.execution
    memory = "channels-last" if execution.channels_last else "channels-first"
    facts = {
        "base": f"{settings.base} at {settings.image_size} px, {view.candidates[0].layout}",
        "stem": run.network.stem,
        "dataset": settings.dataset,
        "data hash": str(run.data.hash)[:12],
        "validation images": f"split by seed {run.data.split_seed}",
        "recipe": f"{settings.recipe}: batch {recipe.batch_size}, rate {recipe.lr:.4g}",
        "epochs": str(settings.epochs),
        "fraction": settings.fraction,
        "objective": settings.objective,
        "start": str(run.start or "fresh weights"),
        "precision": execution.precision,
        "space": f"{run.space.name}: {how_it_walks(run.space)}",
        "judge": settings.judge,
        "seeds": str(settings.seeds),
        "first seed": str(settings.seed),
        "steps": f"{memory}, {execution.steps}{', deterministic' if execution.deterministic else ''}",
        "device": settings.device.partition(":")[0],
        "torch": str(run.environment.versions.get("torch")),
    }
    return compared(findings_of(run, view, history), facts)
