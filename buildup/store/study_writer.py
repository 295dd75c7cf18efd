"""The writer of a run: every event goes here before it counts (`study.py` reads the history back).

The Optuna study is the truth about what ended and what was decided. Beside it lie files that people and the judge
read: `decisions.jsonl`, and for each training its epochs and which validation images it got right.
"""

import json
import os
import warnings
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import optuna
from optuna.artifacts import upload_artifact
from optuna.distributions import BaseDistribution, IntDistribution
from optuna.storages import BaseStorage
from optuna.trial import TrialState

from buildup.errors import RunError
from buildup.graph.network import Network
from buildup.graph.serialize import fingerprint
from buildup.report.diagram import graph_svg
from buildup.store import trial_attrs as entry
from buildup.store.atomic_write import write_atomic
from buildup.store.lock import take
from buildup.store.run_dir import METRICS, final_record, read_epochs, reused_from, trainings_in
from buildup.store.storage import artifact_store, lost, opened_storage, shown
from buildup.store.study_notes import Notes
from buildup.store.study_reader import (
    CORRECT,
    EPOCHS,
    FORMAT,
    LOSSES,
    MARK,
    REUSED,
    decision_key,
    existing_storage,
    history_of,
    load_study,
)
from buildup.trials.decision import Decision, decision_to_values
from buildup.trials.event import Ended, EpochDone, Event, Started
from buildup.trials.history import History
from buildup.trials.outcome import Epoch, Failure, Reason, Record, Score
from buildup.trials.training import Candidate, Training

DECISIONS = "decisions.jsonl"
CONCLUSION = "final"
"""The study attribute with the result of `final`."""
MOST_HEADS = 4096

Costs = Callable[[Candidate], tuple[int, int] | None]


@dataclass(slots=True, kw_only=True)
class _Open:
    """A trial that was asked for and not told yet."""

    trial: optuna.Trial
    known: dict[str, Any]
    reported: set[int]
    attempt: int = 0
    worker: str = ""


class StudyWriter:
    """Writes a run and reads it back. One process at a time: the run's lock file names it."""

    history: History
    """What the run holds at opening."""

    def __init__(
        self,
        *,
        folder: Path,
        storage_url: str | None,
        study: optuna.Study,
        storage: BaseStorage,
        history: History,
        costs: Costs,
        held: ExitStack,
        revision: int = 0,
        epochs: int | None = None,
    ) -> None:
        """Use `create` or `open`."""
        self.history = history
        self._folder = folder
        self._epochs = epochs
        self._trainings = trainings_in(folder, epochs)
        self._what = f"the study in {shown(storage_url)}"
        self._study = study
        self._storage = storage
        self._costs = costs
        self._held = held
        self._chapter = revision
        self._open: dict[str, _Open] = {}
        self._firsts: dict[str, int] = {}
        self._verdict = study.user_attrs.get(CONCLUSION, {}).get("verdict", "")
        self._notes = Notes(study, self._firsts)

    @classmethod
    def create(
        cls, *, folder: Path, storage_url: str | None, study_name: str, base: Network, costs: Costs = lambda _: None
    ) -> "StudyWriter":
        """Begin a run in its folder."""
        folder.mkdir(parents=True, exist_ok=True)
        with ExitStack() as held:
            held.callback(take(folder).close)
            storage = held.enter_context(opened_storage(storage_url, folder))
            try:
                study = optuna.create_study(
                    storage=storage,
                    study_name=study_name,
                    direction="maximize",
                    sampler=optuna.samplers.RandomSampler(),
                )
            except optuna.exceptions.DuplicatedStudyError:
                raise RunError(
                    f"{shown(storage_url)} holds a study {study_name!r} already. "
                    f"Go on with it by `resume`, or choose another name for the run."
                ) from None
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
                study.set_metric_names(["accuracy"])
            study.set_user_attr(MARK, {"format": FORMAT, "base": fingerprint(base), "folder": str(folder.absolute())})
            return cls(
                folder=folder,
                storage_url=storage_url,
                study=study,
                storage=storage,
                history=History(),
                costs=costs,
                held=held.pop_all(),
            )

    @classmethod
    def open(
        cls,
        *,
        folder: Path,
        storage_url: str | None,
        study_name: str,
        base: Network,
        costs: Costs = lambda _: None,
        revision: int = 0,
        epochs: int | None = None,
    ) -> "StudyWriter":
        """Go on with a run: what its workers finished meanwhile is told, torn files are repaired.

        Args:
            folder: of the run.
            storage_url: Where its study is; None for the file in the folder.
            study_name: What it is called there.
            base: What the run must have begun with.
            costs: Parameters and MACs of a candidate.
            chapter: How often it was extended.
            epochs: Of the chapter's trainings; None for those that the run began with.
        """
        with ExitStack() as held:
            held.callback(take(folder).close)
            storage = held.enter_context(existing_storage(folder, storage_url))
            study = load_study(storage, storage_url, study_name)
            found, expected = study.user_attrs[MARK]["base"], fingerprint(base)
            if found != expected:
                raise RunError(
                    f"the study {study_name!r} in {shown(storage_url)} began with another base "
                    f"(fingerprint {found}, not {expected}). Resume it with the settings that it was made with."
                )
            writer = cls(
                folder=folder,
                storage_url=storage_url,
                study=study,
                storage=storage,
                history=history_of(folder, study, revision, epochs),
                costs=costs,
                held=held,
                revision=revision,
                epochs=epochs,
            )
            with lost(writer._what):
                writer._catch_up()
            writer._held = held.pop_all()
            return writer

    def record(self, history: History, event: Event) -> History:
        """Write an event down; the history with it. Events of a training that has ended are old news."""
        training = event.training
        if training.id in history.outcomes:
            return history
        with lost(self._what):
            self._notes.write(late=True)
            one = self._open.get(training.id) or self._ask(training, history)
            match event:
                case Started(attempt=attempt, worker=worker):
                    one.attempt, one.worker = attempt, worker
                    return history
                case EpochDone(epoch=epoch):
                    return self._add_epoch(one, history, epoch)
                case Ended(record=record):
                    return self._tell(one, history, record)

    def decide(self, history: History, decision: Decision) -> History:
        """Write a decision down: first into the study, then where people look."""
        values = decision_to_values(decision)
        with lost(self._what):
            self._study.set_user_attr(decision_key(self._chapter, decision.step), values)
            with (self._folder / DECISIONS).open("a", encoding="utf-8") as file:
                file.write(json.dumps(values) + "\n")
                file.flush()
                os.fsync(file.fileno())
            history = history.with_decision(decision)
            self._notes.show(history.decisions, self._verdict)
            self._notes.write(late=True)
        return history

    def conclude(self, values: dict[str, Any]) -> None:
        """Keep what a final found."""
        with lost(self._what):
            self._study.set_user_attr(CONCLUSION, values)
            self._verdict = values["verdict"]
            self._notes.show(self.history.decisions, self._verdict)

    def finish(self, history: History) -> None:
        """The search is over: what still runs was started ahead and is not needed."""
        failure = Failure(reason=Reason.UNNEEDED, message="the search was over before it ended")
        with lost(self._what):
            for one in list(self._open.values()):
                self._tell(one, history, Record(outcome=failure, curve=()))

    def close(self) -> None:
        """Give the run and its storage free for others."""
        with self._held, lost(self._what):
            self._notes.write()

    def _catch_up(self) -> None:
        for frozen in self._study.get_trials(deepcopy=False):
            if frozen.user_attrs.get(EPOCHS) == self._epochs:
                self._firsts.setdefault(frozen.user_attrs["candidate"], frozen._trial_id)
        for _ in self._study.get_trials(deepcopy=False, states=(TrialState.WAITING,)):
            self._study.ask()
        for frozen in self._study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            key = frozen.user_attrs["training"]
            trial = optuna.Trial(self._study, frozen._trial_id)
            if frozen.user_attrs.get(EPOCHS) != self._epochs:
                # Should the run come back to these epochs, it goes on in another trial.
                trial.set_user_attr("outcome", Reason.UNNEEDED.value)
                self._study.tell(trial, state=TrialState.FAIL)
                continue
            self._repair_metrics(key)
            one = _Open(trial=trial, known=dict(frozen.user_attrs), reported=set(frozen.intermediate_values))
            self._open[key] = one
            for epoch in self.history.curves.get(key, ()):
                self._report(one, epoch)
            if found := final_record(self._trainings / key):
                one.attempt, record = found
                self.history = self._tell(one, self.history, record)
        lines = "".join(json.dumps(decision_to_values(decision)) + "\n" for decision in self.history.decisions)
        path = self._folder / DECISIONS
        if (path.read_text(encoding="utf-8", errors="replace") if path.exists() else "") != lines:
            write_atomic(path, lines.encode())
        self._notes.show(self.history.decisions, self._verdict)

    def _ask(self, training: Training, history: History) -> _Open:
        values = entry.params(training.candidate.network)
        known = entry.description(training, self._costs(training.candidate))
        if self._epochs is not None:
            known[EPOCHS] = self._epochs
        # A whole trial at once is one transaction, where suggesting each parameter would be a dozen. And it runs from
        # the beginning: asking for one that waits reads all that run, 10 ms beside 8 of them and 57 ms beside 100.
        template = optuna.create_trial(
            state=TrialState.RUNNING,
            params=values,
            distributions=_distributions(training.candidate.network, values),
            user_attrs=known,
        )
        template.datetime_start = datetime.now()
        trial = optuna.Trial(self._study, self._storage.create_new_trial(self._study._study_id, template))
        one = self._open[training.id] = _Open(trial=trial, known=known, reported=set())
        if training.candidate.id not in self._firsts:
            self._firsts[training.candidate.id] = trial._trial_id
            self._attach_diagram(trial, training.candidate)
        self._repair_metrics(training.id)
        for epoch in history.curves.get(training.id, ()):  # of an earlier trial that was ended unneeded
            self._report(one, epoch)
        return one

    def _attach_diagram(self, trial: optuna.Trial, candidate: Candidate) -> None:
        """One diagram a candidate, on its first trial, where the dashboard shows it."""
        with TemporaryDirectory() as temporary:
            path = Path(temporary) / "network.svg"
            path.write_text(graph_svg(candidate.network), encoding="utf-8")
            upload_artifact(
                artifact_store=artifact_store(self._folder),
                file_path=str(path),
                study_or_trial=trial,
                mimetype="image/svg+xml",
            )

    def _add_epoch(self, one: _Open, history: History, epoch: Epoch) -> History:
        key = one.known["training"]
        grown = history.with_epoch(key, epoch)
        if grown is not history:
            line = json.dumps({"number": epoch.number, "metrics": dict(epoch.metrics)})
            with (self._trainings / key / METRICS).open("a", encoding="utf-8") as file:
                file.write(line + "\n")
            self._report(one, epoch)
        return grown

    def _report(self, one: _Open, epoch: Epoch) -> None:
        if epoch.number not in one.reported and "accuracy" in epoch.metrics:
            one.trial.report(epoch.metrics["accuracy"], epoch.number)
            one.reported.add(epoch.number)

    def _tell(self, one: _Open, history: History, record: Record) -> History:
        key = one.known["training"]
        for epoch in record.curve:
            history = self._add_epoch(one, history, epoch)
        outcome = entry.written(record.outcome)
        if isinstance(outcome, Score) and outcome.correct is not None:
            write_atomic(self._trainings / key / CORRECT, outcome.correct)
        if isinstance(outcome, Score) and outcome.losses is not None:
            write_atomic(self._trainings / key / LOSSES, outcome.losses)
        ended = {**entry.result(one.known, outcome, history), "attempt": one.attempt, "worker": one.worker}
        if isinstance(outcome, Score) and (source := reused_from(self._trainings / key)):
            ended[REUSED] = source
        for name, value in ended.items():
            one.trial.set_user_attr(name, value)
        if isinstance(outcome, Score):
            self._study.tell(one.trial, outcome.accuracy, state=TrialState.COMPLETE)
        else:
            self._study.tell(one.trial, state=TrialState.FAIL)
        del self._open[key]
        # Not to be needed is no outcome: should the training be wanted again, it goes on in a new trial.
        return history.with_outcome(key, outcome) if entry.counts(outcome) else history

    def _repair_metrics(self, key: str) -> None:
        path = self._trainings / key / METRICS
        path.parent.mkdir(parents=True, exist_ok=True)
        lines = [json.dumps({"number": one.number, "metrics": dict(one.metrics)}) + "\n" for one in read_epochs(path)]
        text = "".join(lines)
        if path.exists() and path.stat().st_size != len(text.encode()):
            write_atomic(path, text.encode())


def _distributions(network: Network, values: dict[str, int]) -> dict[str, BaseDistribution]:
    """The ranges of a trial's parameters, the same for all networks of a run."""
    highs = {}
    for stage in network.stages:
        own = sum(not block.added for block in stage.blocks)
        highs[f"{stage.name}.msa"] = highs[f"{stage.name}.others"] = own + 1  # one may be added at the end
        highs[f"{stage.name}.window"] = max(stage.size)
        highs[f"{stage.name}.heads"] = MOST_HEADS
    return {name: IntDistribution(0, max(highs[name], value)) for name, value in values.items()}
