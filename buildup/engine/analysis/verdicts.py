"""Parent and candidate of each verdict of a run, measured side by side at the place of the edit.

What is measured of the parent is known before the candidate is trained, so it alone could predict which replacement
helps. What is measured of the candidate could only explain it.
"""

import logging
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from itertools import islice
from pathlib import Path
from typing import Any

from buildup.engine.analysis.evidence import evidence_of
from buildup.engine.analysis.measuring import PROGRESS_INTERVAL
from buildup.engine.analysis.probe import CURVATURE, PLACE, QUICK, Extent, Measured, Probe, probe_of
from buildup.engine.load_state import state_of
from buildup.engine.problems import Problems
from buildup.engine.replay import View
from buildup.errors import RunError, unknown
from buildup.graph.network import Append
from buildup.report.diagnostic_table import Evidence
from buildup.report.words import duration
from buildup.settings import AnalyzeSettings
from buildup.store.run_dir import DIAGNOSTICS, read_diagnoses, trained_weights, write_diagnoses
from buildup.store.run_record import RunRecord, open_record
from buildup.training.execution import check_device
from buildup.trials.candidate import Candidate
from buildup.trials.decision import Decision
from buildup.trials.history import History
from buildup.trials.outcome import Score
from buildup.trials.training import Training, training_id
from buildup.trials.verdict_diagnosis import MEASURES, Diagnosis, diagnosis_to_values

logger = logging.getLogger("buildup")

GROUPS = {"lesion": PLACE, "variance": PLACE, "fourier": PLACE, "hessian": CURVATURE}
"""What `--what` may name here. The first three take two runs over the images together, so they come together."""
HERE = {"compare", "verdicts", "what", "quick", "images", "seed", "device"}
"""The settings that mean something for the verdicts of a run."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Diagnosed:
    """What was measured of verdicts."""

    files: tuple[Path, ...]
    """Where it is kept, one file a run."""
    evidence: Evidence


def diagnose_verdicts(run: str, settings: AnalyzeSettings) -> Diagnosed:
    """Measure what was not measured yet, and give back all of it with the rank correlations, over all runs named.

    Args:
        run: A name in `runs/`, or a folder; `compare` may name more of them.
        settings: What is measured, and how much of it.
    """
    runs, wanted, extent, seed, device = _check(run, settings)
    found: dict[str, tuple[Sequence[Decision], Sequence[Diagnosis]]] = {}
    for one in runs:
        probe = probe_of(one, extent, seed=seed, device=device, curved="top" in wanted)
        view, history = state_of(one)
        found[str(one.folder)] = (view.decisions, _measured(one, view, history, wanted, probe))
    return Diagnosed(files=tuple(one.folder / DIAGNOSTICS for one in runs), evidence=evidence_of(found))


def diagnosed_values(found: Diagnosed) -> dict[str, Any]:
    """The same as plain values."""
    return {
        "files": [str(file) for file in found.files],
        "verdicts": [{"run": row.run, **diagnosis_to_values(row.diagnosis)} for row in found.evidence.rows],
        "correlations": [asdict(correlation) for correlation in found.evidence.correlations],
    }


def _measured(run: RunRecord, view: View, history: History, wanted: Sequence[str], probe: Probe) -> list[Diagnosis]:
    """What was measured of a run's verdicts, those that lacked something measured now."""
    tried = [
        _Pair(decision=decision, candidate=candidate, seeds=_seeds(run, history, decision, probe.extent.seeds))
        for decision, candidate in zip(view.decisions, view.candidates[1:], strict=False)
    ]
    for pair in tried:
        if not pair.seeds:
            logger.warning(
                f"step {pair.decision.step}: left out. No seed has the weights of both parent and candidate."
            )
    done = {diagnosis.step: diagnosis for diagnosis in _kept(run, tried, probe)}
    left = [pair for pair in tried if pair.seeds and not _has(done.get(pair.decision.step), wanted)]
    progress = _Progress(run=str(run.folder), total=sum(2 * len(pair.seeds) for pair in left))
    for pair in left:
        known = done.get(pair.decision.step)
        done[pair.decision.step] = _diagnosis(pair, wanted, known, probe, progress)
        write_diagnoses(run.folder, done.values())
    if not done:
        why = "there are no verdicts yet" if not tried else "the weights of its trainings are gone"
        raise RunError(f"{run.folder}: nothing can be measured, {why}.")
    return [done[step] for step in sorted(done)]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Pair:
    """A verdict with what can be measured of it."""

    decision: Decision
    candidate: Candidate
    seeds: tuple[int, ...]


@dataclass(kw_only=True)
class _Progress:
    """Says now and then how much is left."""

    run: str
    total: int
    done: int = 0
    started: float = field(default_factory=time.monotonic)
    told: float = field(default_factory=time.monotonic)

    def step(self) -> None:
        """One network more is measured."""
        self.done += 1
        now = time.monotonic()
        if now - self.told > PROGRESS_INTERVAL:
            self.told = now
            left = (now - self.started) / self.done * (self.total - self.done)
            logger.info(
                f"verdicts of {self.run}: {self.done} of {self.total} trained networks measured, {duration(left)} left"
            )


def _check(name: str, settings: AnalyzeSettings) -> tuple[list[RunRecord], list[str], Extent, int, str]:
    """The runs, what of them, how much of it, the seed of all choices, and where."""
    problems = Problems()
    asked = list(GROUPS) if settings.what == "all" else settings.what.split(",")
    problems.found += [
        unknown("measurement of --verdicts", what, ["all", *GROUPS]) for what in asked if what not in GROUPS
    ]
    given = [field.name for field in fields(settings) if getattr(settings, field.name) != field.default]
    problems.found += [
        f"--{name.replace('_', '-')} is not for --verdicts, which measures a run on its own images."
        for name in given
        if name not in HERE
    ]
    device = "cpu"
    with problems.caught():
        device = check_device(settings.device)
    seed = problems.whole("--seed", settings.seed, 0, least=0, most=2**31 - 1)
    extent = QUICK if settings.quick else Extent()
    extent = replace(extent, images=problems.whole("--images", settings.images, extent.images))
    runs = []
    for one in filter(None, [name, *(settings.compare or "").split(",")]):
        with problems.caught():
            runs.append(open_record(one))
    labels = [str(run.folder.resolve()) for run in runs]
    problems.found += [f"{label} is named twice." for label in sorted(set(labels)) if labels.count(label) > 1]
    problems.raise_any()
    wanted = [measure for measure in MEASURES if any(measure in GROUPS[what] for what in asked)]
    return runs, wanted, extent, seed, device


def _seeds(run: RunRecord, history: History, decision: Decision, most: int) -> tuple[int, ...]:
    """The seeds of a verdict whose trained weights are there, of candidate and parent."""
    row = range(run.settings.seed, run.settings.seed + decision.seeds)

    def is_there(network: str, seed: int) -> bool:
        scored = isinstance(history.outcome(network, seed), Score)
        return scored and trained_weights(run.trainings / training_id(network, seed)) is not None

    found = (seed for seed in row if is_there(decision.candidate, seed) and is_there(decision.parent, seed))
    return tuple(islice(found, most))


def _kept(run: RunRecord, tried: Sequence[_Pair], probe: Probe) -> list[Diagnosis]:
    """What earlier calls measured, on the same images and batches and of the same trainings."""
    found = read_diagnoses(run.folder)
    pairs = {pair.decision.step: pair for pair in tried}
    kept = [
        diagnosis
        for diagnosis in found
        if diagnosis.measured_on == probe.identity
        and (pair := pairs.get(diagnosis.step))
        and (diagnosis.candidate, diagnosis.parent) == (pair.decision.candidate, pair.decision.parent)
        and diagnosis.seeds == pair.seeds
    ]
    if len(kept) < len(found):
        logger.warning(
            f"{run.folder / DIAGNOSTICS}: {len(found) - len(kept)} of its verdicts were measured on something else."
        )
    return kept


def _has(diagnosis: Diagnosis | None, wanted: Sequence[str]) -> bool:
    return diagnosis is not None and set(wanted) <= diagnosis.before.keys()


def _diagnosis(
    pair: _Pair, wanted: Sequence[str], known: Diagnosis | None, probe: Probe, progress: _Progress
) -> Diagnosis:
    """Measure a verdict, as far as it is not known."""
    parent = pair.candidate.parent
    assert parent is not None
    rows: dict[str, dict[str, tuple[float | None, ...]]] = {}
    for when, network in (("before", parent), ("after", pair.candidate)):
        kept = dict((known.before if when == "before" else known.after) if known else {})
        missing = [measure for measure in wanted if measure not in kept]
        found = []
        for seed in pair.seeds:
            training = Training(candidate=network, seed=seed)
            model = probe.model(training)
            values: Measured = {}
            if set(missing) & set(PLACE):
                values |= probe.at(model, network, places(pair.candidate))
            if set(missing) & set(CURVATURE):
                values |= probe.curvature(model, training)
            found.append(values)
            progress.step()
        rows[when] = kept | {measure: tuple(values[measure] for values in found) for measure in missing}
    return Diagnosis(
        step=pair.decision.step,
        candidate=pair.decision.candidate,
        parent=pair.decision.parent,
        edit=pair.decision.edit,
        seeds=pair.seeds,
        before=rows["before"],
        after=rows["after"],
        measured_on=probe.identity,
    )


def places(candidate: Candidate) -> tuple[str, ...]:
    """The paths of the blocks that a candidate's edits put somewhere."""
    ends = {stage.name: stage.blocks[-1].path for stage in candidate.network.stages}
    return tuple(ends[edit.stage] if isinstance(edit, Append) else edit.path for edit in candidate.edits)
