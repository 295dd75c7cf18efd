"""Parent and candidate of each verdict of a run, measured at the place of the edit.

Measurements of the parent are known before the candidate is trained, so they could predict which replacement helps.
Measurements of the candidate could only explain it. Images, batches and random numbers are the same for all networks of
a run, so differences come from the networks.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from torch import Tensor, nn

from buildup.diagnostics.analysis import labelled_batches
from buildup.diagnostics.hessian import BATCH, ape, augmented_batches, batch_eigenvalues, nep
from buildup.diagnostics.lesion import measure_blocks
from buildup.engine.analysis.analyze import Progress
from buildup.engine.analysis.subjects import measuring_device
from buildup.engine.export import load_trained
from buildup.engine.load_state import state_of
from buildup.engine.problems import Problems
from buildup.engine.reports import evidence_of
from buildup.errors import RunError, unknown
from buildup.graph.network import Append
from buildup.report.diagnostic_table import Evidence
from buildup.settings import AnalyzeSettings
from buildup.store.run_dir import DIAGNOSTICS, kept_snapshots, read_diagnoses, trained_weights, write_diagnoses
from buildup.store.run_record import RunRecord, open_record
from buildup.training.data import load_data, open_unchanged
from buildup.training.dataset import Dataset, parse_fraction
from buildup.training.fit import split_for
from buildup.training.recipe import WARMUP
from buildup.trials.decision import MEASURES, Decision, Diagnosis, diagnosis_to_values
from buildup.trials.history import History
from buildup.trials.outcome import Score
from buildup.trials.training import Candidate, Training, training_id

log = logging.getLogger("buildup")

PLACE, CURVATURE = ("lesion", "variance", "frequency"), ("top", "ape", "nep")
EARLY = ("early_ape", "early_nep")
"""Those of the weights after the warm-up, where the recipe of a run keeps them."""
BATCH_SIZE = 128

Measured = dict[str, float | None]
GROUPS = {"lesion": PLACE, "variance": PLACE, "fourier": PLACE, "hessian": CURVATURE + EARLY}
"""The choices of `--what` and their measures. The first three are measured together, in two passes over the images."""
HERE = {"compare", "verdicts", "what", "quick", "images", "seed", "device"}
"""The settings that apply to the verdicts of a run."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Extent:
    """How much is measured for each training."""

    images: int = 10_000
    """The most validation images."""
    hessian_batches: int = 30
    """Batches of 16 training images for each of many trainings: several seeds of two networks."""
    seeds: int = 12
    """The most seeds of a verdict."""


QUICK_EXTENT = Extent(images=512, hessian_batches=2, seeds=2)


@dataclass(frozen=True, kw_only=True)
class Probe:
    """The data that the networks of a run are measured on: each on images of its seed."""

    run: RunRecord
    extent: Extent
    data: Dataset
    seed: int
    """The seed of the choice of images."""
    device: torch.device
    identity: Mapping[str, Any]
    curvatures: dict[str, Measured] = field(default_factory=dict)
    """By training and phase. It does not depend on the place: a parent of several candidates is measured once."""

    def model(self, training: Training, *, early: bool = False) -> nn.Module | None:
        """The trained network, or that after its warm-up; None if those weights are gone."""
        folder = self.run.trainings / training.id
        snapshot = kept_snapshots(folder).get(self.run.recipe.warmup_end) if early else None
        if early and snapshot is None:
            return None
        return load_trained(training.candidate.network, folder, snapshot).to(self.device)

    def split(self, seed: int) -> tuple[Tensor, Tensor]:
        """The images that trainings with a seed were trained and validated on."""
        fraction = parse_fraction(self.run.settings.fraction)
        return split_for(self.data, seed, self.run.data.split_seed, fraction)

    def measured(self, training: Training, paths: Sequence[str], wanted: Sequence[str]) -> Measured:
        """These measures of a trained network, and others that come with them; `paths` are the edited blocks."""
        found: Measured = {}
        if set(wanted) & {*PLACE, *CURVATURE}:
            model = self.model(training)
            assert model is not None
            if set(wanted) & set(PLACE):
                found |= self.block_effects(model, training, paths)
            if set(wanted) & set(CURVATURE):
                found |= self.curvature(training, model)
        if set(wanted) & set(EARLY):
            found |= self.curvature(training, self.model(training, early=True), early=True)
        return found

    def block_effects(self, model: nn.Module, training: Training, paths: Sequence[str]) -> Measured:
        """The effect of the blocks at these paths; None for all measures where the network has no such blocks."""
        network = training.candidate.network
        if not {block.path for block in network.blocks}.issuperset(paths):
            return dict.fromkeys(PLACE)
        style = network.block(paths[0]).style
        channels_last = style is not None and style.channels_last
        _, val = self.split(training.seed)
        chosen = torch.randperm(len(val), generator=torch.Generator().manual_seed(self.seed))[: self.extent.images]
        batches = partial(labelled_batches, self.data.part(val[chosen.sort().values]), BATCH_SIZE)
        return asdict(measure_blocks(model, paths, batches, channels_last=channels_last))

    def curvature(self, training: Training, model: nn.Module | None, *, early: bool = False) -> Measured:
        """The largest eigenvalues of the Hessian of each batch; None for all measures without a model."""
        names = {"ape": "early_ape", "nep": "early_nep"} if early else {name: name for name in CURVATURE}
        if model is None:
            return dict.fromkeys(names.values())
        key = f"{training.id}@{WARMUP}" if early else training.id
        if key not in self.curvatures:
            recipe, (train, _) = self.run.recipe, self.split(training.seed)
            count, device = self.extent.hessian_batches, self.device
            batches = augmented_batches(self.data, recipe, train, seed=self.seed, device=device, count=count)
            found = [one.values for one in batch_eigenvalues(model, batches, weight_decay=recipe.weight_decay)]
            values = [value for batch in found for value in batch]
            measured = {"top": fmean(map(max, found)), "ape": ape(values), "nep": nep(values)}
            self.curvatures[key] = {name: measured[one] for one, name in names.items()}
        return self.curvatures[key]


@dataclass(frozen=True, slots=True, kw_only=True)
class Diagnosed:
    """The measured verdicts of runs."""

    files: tuple[Path, ...]
    """One file per run."""
    evidence: Evidence


def diagnose_verdicts(run: str, settings: AnalyzeSettings) -> Diagnosed:
    """Measure the verdicts that were not measured yet; return all with their rank correlations, over all named runs.

    `run` is a name in `runs/`, or a folder; `compare` of the settings may name more.
    """
    runs, wanted, extent, seed, device = _check(run, settings)
    found: dict[str, tuple[Sequence[Decision], Sequence[Diagnosis]]] = {}
    for one in runs:
        probe = probe_of(one, extent, seed=seed, device=device)
        found[str(one.folder)] = _measured(probe, wanted)
    return Diagnosed(files=tuple(one.folder / DIAGNOSTICS for one in runs), evidence=evidence_of(found))


def diagnosed_values(found: Diagnosed) -> dict[str, Any]:
    return {
        "files": [str(file) for file in found.files],
        "verdicts": [{"run": row.run, **diagnosis_to_values(row.diagnosis)} for row in found.evidence.rows],
        "correlations": [asdict(correlation) for correlation in found.evidence.correlations],
        "effects": [asdict(effect) for effect in found.evidence.effects],
    }


def _measured(probe: Probe, wanted: Sequence[str]) -> tuple[Sequence[Decision], list[Diagnosis]]:
    """The verdicts of a run with their measures. Those that lack a wanted measure are measured now."""
    run, (view, history) = probe.run, state_of(probe.run)
    if run.recipe.warmup_end not in run.recipe.snapshot_epochs:
        wanted = [measure for measure in wanted if measure not in EARLY]
    tried = [
        _Pair(decision=decision, candidate=candidate, seeds=_seeds(probe, history, decision))
        for decision, candidate in zip(view.decisions, view.candidates[1:], strict=False)
    ]
    for pair in tried:
        if not pair.seeds:
            log.warning(f"step {pair.decision.step}: left out. No seed has the weights of both parent and candidate.")
    done = {diagnosis.step: diagnosis for diagnosis in _kept(probe, tried)}
    complete = {step for step, diagnosis in done.items() if diagnosis.before.keys() >= set(wanted)}
    left = [pair for pair in tried if pair.seeds and pair.decision.step not in complete]
    networks = sum(2 * len(pair.seeds) for pair in left)
    progress = Progress(name=f"verdicts of {run.folder}", total=networks)
    for pair in left:
        known = done.get(pair.decision.step)
        done[pair.decision.step] = _diagnosis(pair, wanted, known, probe, progress)
        write_diagnoses(run.folder, done.values())
    if not done:
        why = "there are no verdicts yet" if not tried else "the weights of its trainings are gone"
        raise RunError(f"{run.folder}: nothing can be measured, {why}.")
    return view.decisions, [done[step] for step in sorted(done)]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Pair:
    """A verdict, and the seeds for which it can be measured."""

    decision: Decision
    candidate: Candidate
    seeds: tuple[int, ...]


def _check(name: str, settings: AnalyzeSettings) -> tuple[list[RunRecord], list[str], Extent, int, str]:
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
    device = problems.checked("cpu", measuring_device, settings.device)
    seed = problems.whole("--seed", settings.seed, 0)
    extent = QUICK_EXTENT if settings.quick else Extent()
    extent = replace(extent, images=problems.whole("--images", settings.images, extent.images))
    names = list(filter(None, (name, *(settings.compare or "").split(","))))
    runs = [run for one in names if (run := problems.checked(None, open_record, one))]
    problems.repeated([str(run.folder.resolve()) for run in runs])
    problems.raise_any()
    wanted = [measure for measure in MEASURES if any(measure in GROUPS[what] for what in asked)]
    return runs, wanted, extent, seed, device


def _seeds(probe: Probe, history: History, decision: Decision) -> tuple[int, ...]:
    run = probe.run
    found: list[int] = []
    for seed in range(run.settings.seed, run.settings.seed + decision.seeds):
        pair = (decision.candidate, decision.parent)
        scored = all(isinstance(history.outcome(network, seed), Score) for network in pair)
        if scored and all(trained_weights(run.trainings / training_id(network, seed)) for network in pair):
            found.append(seed)
    return tuple(found[: probe.extent.seeds])


def _kept(probe: Probe, tried: Sequence[_Pair]) -> list[Diagnosis]:
    """The verdicts that earlier calls measured on the same data and for the same trainings."""
    found = read_diagnoses(probe.run.folder)
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
        log.warning(
            f"{probe.run.folder / DIAGNOSTICS}: {len(found) - len(kept)} of its verdicts were measured on something "
            "else."
        )
    return kept


def _diagnosis(
    pair: _Pair, wanted: Sequence[str], known: Diagnosis | None, probe: Probe, progress: Progress
) -> Diagnosis:
    parent = pair.candidate.parent
    assert parent is not None
    ends = {stage.name: stage.blocks[-1].path for stage in pair.candidate.network.stages}
    edited = [ends[edit.stage] if isinstance(edit, Append) else edit.path for edit in pair.candidate.edits]
    rows = []
    for candidate, kept in ((parent, known.before if known else {}), (pair.candidate, known.after if known else {})):
        missing = [measure for measure in wanted if measure not in kept]
        found = []
        for seed in pair.seeds:
            found.append(probe.measured(Training(candidate=candidate, seed=seed), edited, missing))
            progress.end_part()
        rows.append({**kept, **{measure: tuple(values[measure] for values in found) for measure in missing}})
    before, after = rows
    return Diagnosis(
        step=pair.decision.step,
        candidate=pair.decision.candidate,
        parent=pair.decision.parent,
        edit=pair.decision.edit,
        seeds=pair.seeds,
        before=before,
        after=after,
        measured_on=probe.identity,
    )


def probe_of(run: RunRecord, extent: Extent, *, seed: int, device: str) -> Probe:
    settings, recipe = run.settings, run.recipe
    place = settings.dataset, settings.data_dir, settings.image_size
    data = open_unchanged(*place, recipe, run.data.streamed, run.data.hash)
    if not isinstance(data, Dataset):
        data = load_data(*place)
    return Probe(
        run=run,
        extent=extent,
        data=data,
        seed=seed,
        device=torch.device(device),
        identity={
            "images": f"up to {extent.images} of the validation images of each seed, {data.hash[:16]}",
            "hessian": f"{extent.hessian_batches} batches of {BATCH} of its training images, augmented",
            "seed": seed,
        },
    )
