"""`reproduce`: repeat a search, or one of its trainings, from `run.yaml`, and compare what came out.

A repetition is equal to the bit, or it differs by rounding, or it differs. Rounding is told by how a training begins:
the loss of the first epoch then agrees in its leading digits, whatever becomes of it later. In one run (resnet6 on
cued-digits), rounding moved it by 3e-6 of itself, and another initialisation of attention by 5e-4 and 1e-3.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, fields, replace
from itertools import zip_longest
from pathlib import Path
from typing import Any, Literal

from buildup.engine.load_state import state_of
from buildup.engine.replay import View
from buildup.engine.search import run_search
from buildup.engine.setup import check_data, job_maker
from buildup.errors import RequestError, RunError
from buildup.execution.attempt import run_attempt
from buildup.files import write_atomic
from buildup.models.pretrained import check_pretrained
from buildup.settings import ReproduceSettings, RunSettings, SearchSettings, asked_weights
from buildup.store.run_dir import attempt_folder
from buildup.store.run_record import Environment, RunRecord, environment
from buildup.training.execution import check_device
from buildup.training.execution_words import execution_from_words
from buildup.training.fit import fit
from buildup.trials.decision import Decision
from buildup.trials.history import History
from buildup.trials.outcome import Epoch, Failure, Outcome, Record, Score
from buildup.trials.training import Training, candidate_id, seed_of, training_id

Match = Literal["equal", "rounding", "different", "missing"]
LIKENESS: Mapping[Match, str] = {
    "equal": "equal to the bit",
    "rounding": "equal within rounding",
    "different": "different",
    "missing": "trained ahead in one of the two",
}
ROUNDING = 1e-4
"""Relative difference of the first epoch's loss that is put down to rounding in any run."""
TIMES_ROUNDING = 10
"""The same for a run with a rounding check, as a multiple of the difference that the check made."""
TIMES = frozenset({"seconds", "throughput"})
"""Metrics of an epoch that are not its result."""
OWN = frozenset({"run", "storage", "storage_path", "reuse", "track"})
"""Settings that a repetition has not: it must write elsewhere, and must not take over what it repeats."""
RESULT = "reproduced.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Repeated:
    """A training of a run and its repetition."""

    training: str
    layout: str
    match: Match
    before: float | None
    """Accuracies; None where there is no score."""
    after: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Reproduction:
    """What a repetition of a run found."""

    folder: Path
    trainings: tuple[Repeated, ...]
    verdicts: tuple[tuple[str, str, str], ...] = ()
    """For each step: the edit, and both verdicts."""
    changed: Mapping[str, tuple[str, str]]
    """What differs in machine and versions, as it was then and is now."""

    @property
    def succeeded(self) -> bool:
        """Whether everything is equal, at least within rounding.

        What only one of two searches trained was trained ahead, and no verdict needed it.
        """
        same = all(before == after for _, before, after in self.verdicts)
        return same and all(one.match != "different" for one in self.trainings)


def reproduce(run: RunRecord, settings: ReproduceSettings) -> Reproduction:
    """Repeat a run, or one of its trainings, in a new folder, and write what came out to `reproduced.json` there."""
    view, history = state_of(run)
    device = check_device(settings.device or run.settings.device)
    to = Path(settings.to or run.folder.with_name(f"{run.folder.name}-again"))
    if to.exists() and any(to.iterdir()):
        raise RequestError(f"--to {to}: this folder is there already. Name a new one.")
    run = replace(run, settings=moved_to(run.settings, device))
    if settings.training is not None:
        found = _training(run, view, history, str(settings.training), to)
    else:
        found = _search(run, view, history, to)
    write_atomic(to / RESULT, json.dumps(reproduction_values(found), indent=2).encode() + b"\n")
    return found


def moved_to(settings: RunSettings, device: str) -> RunSettings:
    """The settings on a device. What only another kind of device has is left out."""
    moved = replace(settings, device=device)
    if device.partition(":")[0] == settings.device.partition(":")[0]:
        return moved
    eager = replace(execution_from_words(settings.execution), steps="eager")
    return replace(moved, gpus_per_trial=1.0 if device.startswith("cuda") else 0.0, workers=1, execution=eager.words)


def match_of(
    before: Outcome, after: Outcome, curves: tuple[Sequence[Epoch], Sequence[Epoch]], tolerance: float = ROUNDING
) -> Match:
    """How two trainings of one network with one seed compare, given how much rounding may change the first loss."""
    if not isinstance(before, Score) or not isinstance(after, Score):
        failed = isinstance(before, Failure) and isinstance(after, Failure) and before.reason is after.reason
        return "equal" if failed else "different"
    ours, theirs = ([_results(epoch) for epoch in curve] for curve in curves)
    images = before.correct == after.correct and before.losses == after.losses
    if images and before.accuracy == after.accuracy and ours == theirs:
        return "equal"
    moved = first_change(*curves)
    return "rounding" if moved is not None and moved <= tolerance else "different"


def first_change(before: Sequence[Epoch], after: Sequence[Epoch]) -> float | None:
    """The relative difference of the first epoch's loss; None where a training has none."""
    losses = [curve[0].metrics.get("train_loss") for curve in (before, after) if curve]
    known = [loss for loss in losses if loss is not None]
    return abs(known[1] - known[0]) / abs(known[0]) if len(known) == 2 and known[0] else None


def tolerance_of(history: History) -> float:
    """How much rounding may change the first loss of a training, by the rounding check of the base if it was made."""
    found = [ROUNDING]
    for key, curve in history.curves.items():
        if (candidate := candidate_id(key)).endswith("-rounding"):
            plain = training_id(candidate.removesuffix("-rounding"), seed_of(key))
            moved = first_change(history.curves.get(plain, ()), curve)
            found += [TIMES_ROUNDING * moved] if moved is not None else []
    return max(found)


def changes(before: Environment, after: Environment) -> dict[str, tuple[str, str]]:
    then, now = (
        {"python": one.python, "system": one.system, "processor": one.processor, "device": one.device, **one.versions}
        for one in (before, after)
    )
    names = [name for name in {**then, **now} if then.get(name) != now.get(name)]
    return {name: (str(then.get(name)), str(now.get(name))) for name in names}


def reproduction_values(found: Reproduction) -> dict[str, Any]:
    return {
        "folder": str(found.folder),
        "succeeded": found.succeeded,
        "trainings": [asdict(one) for one in found.trainings],
        "verdicts": [{"edit": edit, "before": before, "after": after} for edit, before, after in found.verdicts],
        "changed": {name: list(both) for name, both in found.changed.items()},
    }


def _training(run: RunRecord, view: View, history: History, name: str, to: Path) -> Reproduction:
    training = find_training(view, history, name)
    check_data(run)
    folder = attempt_folder(to, 1)
    folder.mkdir(parents=True)
    with closing(run_attempt(fit, job_maker(run)(training, folder, ()), folder)) as updates:
        *_, record = updates
    assert isinstance(record, Record), "the record comes last"
    again = History(outcomes={training.id: record.outcome}, curves={training.id: record.curve})
    rows = _compared({training.id: training.candidate.layout}, history, again)
    return Reproduction(folder=to, trainings=rows, changed=changes(run.environment, environment(run.settings.device)))


def find_training(view: View, history: History, name: str) -> Training:
    """A finished training of a run by its id, or the start of it."""
    candidates = {one.id: one for one in view.candidates}
    found = [key for key in history.outcomes if len(name) >= 4 and key.startswith(name)]
    found = [name] if name in history.outcomes else found
    known = [key for key in found if candidate_id(key) in candidates]
    if len(known) != 1:
        all_known = [key for key in history.outcomes if candidate_id(key) in candidates]
        what = "several trainings begin like this" if known else "this run has no such training"
        raise RequestError(f"--training {name}: {what}. It has {', '.join(all_known[:12])}.")
    return Training(candidate=candidates[candidate_id(known[0])], seed=seed_of(known[0]))


def _search(run: RunRecord, view: View, history: History, to: Path) -> Reproduction:
    if run.earlier:
        raise RunError(
            f"{run.folder}: this run was extended, so no single search would make it. Repeat one of its trainings "
            "with --training."
        )
    kept = {name: getattr(run.settings, name) for name in {field.name for field in fields(SearchSettings)} - OWN}
    kept |= asked_weights(kept["base"], kept["pretrained"])
    if run.start:
        check_pretrained(run.network, run.start)
    result = run_search(SearchSettings(**kept, run=str(to.absolute())), recorded=run)
    known = {one.id: one.layout for one in view.candidates}
    layouts = {key: known.get(candidate_id(key), "") for key in {**history.outcomes, **result.history.outcomes}}
    return Reproduction(
        folder=to,
        trainings=_compared(layouts, history, result.history),
        verdicts=tuple(_verdicts(view.decisions, result.view.decisions)),
        changed=changes(run.environment, result.record.environment),
    )


def _verdicts(before: Sequence[Decision], after: Sequence[Decision]) -> Iterator[tuple[str, str, str]]:
    for ours, theirs in zip_longest(before, after):
        if ours and theirs and ours.candidate != theirs.candidate:
            yield ours.edit, ours.verdict, f"{theirs.verdict} of another network"
        else:
            one = ours or theirs
            yield one.edit, ours.verdict if ours else "none", theirs.verdict if theirs else "none"


def _compared(layouts: Mapping[str, str], before: History, after: History) -> tuple[Repeated, ...]:
    rows = []
    for key, layout in layouts.items():
        ours, theirs = before.outcomes.get(key), after.outcomes.get(key)
        match: Match = "missing"
        if ours is not None and theirs is not None:
            curves = (before.curves.get(key, ()), after.curves.get(key, ()))
            match = match_of(ours, theirs, curves, tolerance_of(before))
        accuracies = [one.accuracy if isinstance(one, Score) else None for one in (ours, theirs)]
        rows.append(Repeated(training=key, layout=layout, match=match, before=accuracies[0], after=accuracies[1]))
    return tuple(rows)


def _results(epoch: Epoch) -> dict[str, float]:
    return {name: value for name, value in epoch.metrics.items() if name not in TIMES}
