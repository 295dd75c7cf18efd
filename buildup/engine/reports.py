"""Reports of one run, and comparisons of several."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from itertools import chain
from pathlib import Path

from buildup.engine.graph_cache import costs_of
from buildup.engine.load_state import read_final, state_of, warnings_of, winner_gain
from buildup.engine.replay import CountCosts, View
from buildup.engine.status import status_of
from buildup.errors import RunError
from buildup.files import write_atomic
from buildup.graph.kinds import known_kinds
from buildup.report.comparison import Compared, compared
from buildup.report.diagnostic_table import EXPECTED, Correlation, Effect, Evidence, MeasuredVerdict, When
from buildup.report.findings import Findings
from buildup.report.page import page
from buildup.space.schema import describe_walk
from buildup.statistics.distributions import share_interval
from buildup.statistics.kendall import kendall
from buildup.store.notes import read_people_notes
from buildup.store.run_dir import read_diagnoses, reused_from
from buildup.store.run_record import RunRecord
from buildup.store.storage import hide_password
from buildup.store.study_reader import open_study, reporting_damage
from buildup.training.recipe import effective_values, recipe_to_values
from buildup.trials.decision import MEASURES, Decision, Diagnosis
from buildup.trials.history import History
from buildup.trials.outcome import short_hash

REPORT_FILE = "report.html"


def report_of(run: RunRecord) -> Findings:
    """The findings of a run, also while it runs, with what people wrote about it."""
    findings = findings_of(run, *state_of(run))
    with reporting_damage(run.folder, run.settings.storage):
        study = open_study(run.folder, run.settings.storage, run.study_name)
        return replace(findings, notes=tuple(read_people_notes(study)))


def findings_of(run: RunRecord, view: View, history: History, costs: CountCosts = costs_of) -> Findings:
    measured = read_diagnoses(run.folder)
    status, reason = status_of(run)
    return Findings(
        title=run.title,
        run=str(run.folder),
        settings={
            **{name: value for name, value in asdict(run.settings).items() if value is not None},
            "storage": hide_password(run.settings.storage),  # reports and cards travel, a password must not
            **({"storage_path": str(run.remote_trainings)} if run.remote_trainings else {}),
            "stem": run.network.stem,
            "recipe values": recipe_to_values(run.recipe),
            "data": asdict(run.data),
            "environment": asdict(run.environment),
        },
        base=view.candidates[0].network,
        winner=view.best.network,
        history=history,
        costs={one.id: history.costs.get(one.id) or costs(one) for one in (view.candidates[0], view.best)},
        warnings=warnings_of(run, view, history),
        climb=view.climb,
        rounding=view.rounding,
        evidence=evidence_of({run.folder.name: (view.decisions, measured)}) if measured else None,
        reused={key: source for key in history.outcomes if (source := reused_from(run.trainings / key))},
        final=read_final(run.folder),
        exported=(run.folder / "export").is_dir(),
        gain=winner_gain(run, view),
        ended=view.finished,
        finished=f"This run is {status}{f': {reason}' if reason else ''}.",
    )


def write_report(run: RunRecord, to: str | None = None) -> Path:
    """Write the report of a run anew, usually as its `report.html`, and return its path."""
    path = Path(to) if to else run.folder / REPORT_FILE
    content = page(report_of(run)).encode()
    try:
        write_atomic(path, content)
    except OSError as problem:
        raise RunError(
            f"{path}: it can't be written: {problem.strerror}. Write it elsewhere with --to FILE, or print it with "
            f"--format md."
        ) from None
    return path


def write_findings(run: RunRecord, findings: Findings) -> None:
    write_atomic(run.folder / REPORT_FILE, page(findings).encode())


def compare_runs(runs: Sequence[RunRecord]) -> tuple[list[Compared], Evidence | None]:
    """One column per run, and the rank correlations of measured verdicts; None if no verdict was measured."""
    columns, measured = [], {}
    for run in runs:
        view, history = state_of(run)
        columns.append(_compared(run, view, history))
        if found := read_diagnoses(run.folder):
            measured[str(run.folder)] = view.decisions, found
    return columns, evidence_of(measured) if measured else None


def _compared(run: RunRecord, view: View, history: History) -> Compared:
    settings = run.settings
    recipe, execution = run.recipe, run.execution
    digest = short_hash(json.dumps(effective_values(recipe), sort_keys=True).encode())[:8]
    memory = "channels-last" if execution.channels_last else "channels-first"
    facts = {
        "base": f"{settings.base} at {settings.image_size} px, {view.candidates[0].layout}",
        "stem": run.network.stem,
        "dataset": settings.dataset,
        "data hash": str(run.data.hash)[:12],
        "validation images": "a fold a seed" if run.data.split_seed is None else f"split by seed {run.data.split_seed}",
        "recipe": f"{recipe.name}: batch {recipe.batch_size}, rate {recipe.lr:.4g} ({digest})",
        "epochs": str(settings.epochs),
        "fraction": settings.fraction,
        "objective": settings.objective,
        "start": str(run.start or "fresh weights"),
        "precision": execution.precision,
        "space": f"{run.space.name}: {describe_walk(run.space)}",
        "places": run.space.places,
        "judge": settings.judge,
        "seeds": str(settings.seeds),
        "first seed": str(settings.seed),
        "steps": f"{memory}, {execution.steps}{', deterministic' if execution.deterministic else ''}",
        "device": settings.device.partition(":")[0],
        "torch": str(run.environment.versions.get("torch")),
    }
    return compared(findings_of(run, view, history), facts)


def evidence_of(runs: Mapping[str, tuple[Sequence[Decision], Sequence[Diagnosis]]]) -> Evidence:
    """The measured verdicts, and the rank correlation of each diagnostic with their gains.

    Verdicts are compared only within their run, because gains differ from base to base.
    """
    rows = tuple(
        MeasuredVerdict(run=name, decision=decision, diagnosis=diagnosis)
        for name, (decisions, diagnoses) in runs.items()
        for diagnosis in diagnoses
        for decision in decisions
        if decision.step == diagnosis.step
    )
    whens: tuple[When, ...] = ("before", "change")
    measured = [(measure, when) for when in whens for measure in MEASURES]
    found = (_correlation(rows, measure, when) for measure, when in [("step", "before"), *measured])
    effects = (_effect(rows, measure) for measure in EXPECTED)
    return Evidence(
        rows=rows,
        correlations=tuple(one for one in found if one),
        effects=tuple(one for one in effects if one.count),
    )


def _effect(rows: Sequence[MeasuredVerdict], measure: str) -> Effect:
    """How often one diagnostic changes as the paper says, where attention replaces a block without it."""
    replacing = (row for row in rows if _puts_attention(row.decision.edit))
    changes = [change for row in replacing if (change := row.value(measure, "change"))]
    expected = sum(change * EXPECTED[measure] > 0 for change in changes)
    low, high = share_interval(expected, len(changes)) if changes else (0.0, 1.0)
    return Effect(measure=measure, as_expected=expected, count=len(changes), low=low, high=high)


def _puts_attention(edit: str) -> bool:
    """Whether all edits of a decision put attention in the place of a block without it.

    >>> _puts_attention("layer4.1: conv -> msa(heads=4)"), _puts_attention("layer4.1: msa(heads=4) -> conv")
    (True, False)
    """
    attention = {kind.name for kind in known_kinds().values() if kind.attention}
    kinds = re.findall(r": (\w+)(?:\(.*?\))? -> (\w+)", edit)
    return bool(kinds) and all(old not in attention and new in attention for old, new in kinds)


def _correlation(rows: Sequence[MeasuredVerdict], measure: str, when: When) -> Correlation | None:
    """The correlation of one diagnostic with the gains; None where no run has two verdicts with it."""
    known = [(row.run, value, row.decision.gain) for row in rows if (value := row.value(measure, when)) is not None]
    groups, values, gains = zip(*known, strict=True) if known else ((), (), ())
    if len(set(groups)) == len(groups):
        return None
    found = kendall(values, gains, groups=groups)
    ordered = list(chain.from_iterable(range(groups.count(name)) for name in dict.fromkeys(groups)))
    return Correlation(
        measure=measure,
        when=when,
        count=found.count,
        tau=found.tau,
        low=found.low,
        high=found.high,
        p=found.p,
        least_p=kendall(ordered, ordered, groups=sorted(groups, key=list(dict.fromkeys(groups)).index)).p,
    )
