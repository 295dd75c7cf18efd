"""Writes every event and decision of a run before the search acts on it (`study_reader.py` reads them back).

The Optuna study is the source of truth for outcomes and decisions. Files beside it are for people and the judge:
`decisions.jsonl` and, for each training, its epochs and its per-image results.
"""

import json
import os
import warnings
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import optuna
from optuna.artifacts import upload_artifact
from optuna.distributions import BaseDistribution, IntDistribution
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState

from buildup.errors import RunError
from buildup.files import write_atomic
from buildup.graph.network import Network
from buildup.graph.serialize import fingerprint
from buildup.store import trial_attrs as entry
from buildup.store.notes import Notes
from buildup.store.outage import outlast
from buildup.store.run_dir import (
    DECISIONS,
    METRICS_FILE,
    acquire_run_lock,
    final_record,
    read_decisions,
    reused_from,
    set_aside_records,
    trainings_in,
)
from buildup.store.storage import artifact_store, hide_password, make_durable, opened_storage, reporting_lost_storage
from buildup.store.study_reader import (
    CONCLUSION,
    EPOCHS,
    FORMAT,
    MARK,
    REUSED,
    SET_ASIDE,
    decision_key,
    existing_storage,
    history_of,
    load_study,
    reporting_damage,
)
from buildup.trials.decision import Decision, decision_to_values
from buildup.trials.event import Event, Started
from buildup.trials.history import History
from buildup.trials.outcome import PER_IMAGE, Epoch, Failure, Reason, Record, Score, epoch_to_values
from buildup.trials.training import Candidate, Training

MOST_HEADS = 4096

Costs = Callable[[Candidate], tuple[int, int] | None]
Diagram = Callable[[Network], str]
"""Draws a network as SVG."""


@dataclass(slots=True, kw_only=True)
class _OpenTrial:
    """A trial of the study that is still running."""

    trial: optuna.Trial
    known: dict[str, Any]
    """Its attributes so far."""
    reported: set[int]
    """The numbers of its reported epochs."""
    attempt: int = 0
    worker: str = ""


class StudyWriter:
    """Writes a run and reads it back. It holds the run's lock, so there is one writer at a time."""

    history: History
    """The history of the run when it was opened."""

    def __init__(
        self,
        folder: Path,
        study: optuna.Study,
        storage: BaseStorage,
        held: ExitStack,
        costs: Costs,
        diagram: Diagram | None,
        what: str,
        revision: int = 0,
        epochs: int | None = None,
    ) -> None:
        """Use `create` or `open`."""
        self.history = history_of(folder, study, revision, epochs)
        self._folder = folder
        self._epochs = epochs
        self._trainings = trainings_in(folder, epochs)
        self._what = f"the study in {what}"
        self._study = study
        self._storage = storage
        self._costs = costs
        self._diagram = diagram
        self._held = held
        self._revision = revision
        self._open: dict[str, _OpenTrial] = {}
        self._firsts: dict[str, int] = {}
        self._verdict = study.user_attrs.get(CONCLUSION, {}).get("verdict", "")
        self._notes = Notes(study, self._firsts)

    @classmethod
    def create(
        cls,
        *,
        folder: Path,
        storage_url: str | None,
        study_name: str,
        base: Network,
        costs: Costs = lambda _: None,
        diagram: Diagram | None = None,
    ) -> "StudyWriter":
        """Begin a run: create its study. The arguments are those of `open`."""
        folder.mkdir(parents=True, exist_ok=True)
        what = hide_password(storage_url)
        with ExitStack() as held, reporting_lost_storage(f"the study in {what}"):
            held.callback(acquire_run_lock(folder).close)
            storage = held.enter_context(opened_storage(storage_url, folder))
            try:
                sampler = optuna.samplers.RandomSampler()
                study = optuna.create_study(
                    storage=storage, study_name=study_name, direction="maximize", sampler=sampler
                )
            except optuna.exceptions.DuplicatedStudyError:
                study = optuna.load_study(storage=storage, study_name=study_name, sampler=sampler)
                if study.user_attrs or study.get_trials(deepcopy=False):  # otherwise its process died right here
                    raise RunError(
                        f"{what} holds a study {study_name!r} already. Go on with it by `resume`, or choose another "
                        "name for the run."
                    ) from None
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
                study.set_metric_names(["accuracy"])
            study.set_user_attr(MARK, {"format": FORMAT, "base": fingerprint(base), "folder": str(folder.absolute())})
            make_durable(storage)
            writer = cls(folder, study, storage, held, costs, diagram, what)
            writer._repair_decisions()
            writer._held = held.pop_all()
            return writer

    @classmethod
    def open(
        cls,
        *,
        folder: Path,
        storage_url: str | None,
        study_name: str,
        base: Network,
        costs: Costs = lambda _: None,
        diagram: Diagram | None = None,
        revision: int = 0,
        epochs: int | None = None,
    ) -> "StudyWriter":
        """Continue a run: record what its workers finished meanwhile, and repair files that a crash damaged.

        Args:
            folder: The run's folder.
            storage_url: The storage of its study; None for the file in the folder.
            study_name: The name of its study.
            base: The base network, which must be the one that the run began with.
            costs: Parameters and MACs of a candidate.
            diagram: Without it no diagram is attached.
            revision: How often the run was extended.
            epochs: Epochs of its trainings; None for the number that the run began with.
        """
        with ExitStack() as held:
            held.callback(acquire_run_lock(folder).close)
            storage = held.enter_context(existing_storage(folder, storage_url))
            what = hide_password(storage_url)
            with reporting_damage(folder, storage_url):
                study = load_study(storage, storage_url, study_name)
                found, expected = study.user_attrs[MARK]["base"], fingerprint(base)
                if found != expected:
                    raise RunError(
                        f"the study {study_name!r} in {what} began with another base (fingerprint {found}, "
                        f"not {expected}). Resume it with the settings that it was made with."
                    )
                writer = cls(folder, study, storage, held, costs, diagram, what, revision, epochs)
            with reporting_lost_storage(writer._what):
                writer._catch_up()
            writer._held = held.pop_all()
            return writer

    def record(self, history: History, event: Event) -> History:
        """Write an event; returns the history with it. Events of a training that has ended are ignored."""
        training = event.training
        if training.id in history.outcomes:
            return history
        with reporting_lost_storage(self._what):
            self._notes.write(late=True)
            one = self._open.get(training.id) or self._ask(training, history)
            match event.update:
                case Started() as started:
                    one.attempt, one.worker = started.attempt, started.worker
                    return history
                case Epoch() as epoch:
                    return self._add_epoch(one, history, epoch)
                case Record() as record:
                    return self._tell(one, history, record)

    def decide(self, history: History, decision: Decision) -> History:
        """Write a decision, first into the study and then into `decisions.jsonl`."""
        values = decision_to_values(decision)
        with reporting_lost_storage(self._what):
            self._study.set_user_attr(decision_key(self._revision, decision.step), values)
            with (self._folder / DECISIONS).open("a", encoding="utf-8") as file:
                file.write(json.dumps(values) + "\n")
                file.flush()
                os.fsync(file.fileno())
            history = history.with_decision(decision)
            self._notes.show(history.decisions, self._verdict)
            self._notes.write(late=True)
        return history

    def set_aside(self, failed: Mapping[str, float]) -> None:
        """Forget the outcomes of failed trainings up to these attempts; they are done anew in new trials.

        After a stop it may be called again: what has failed since then stays.
        """
        known = set(self._study.user_attrs.get(SET_ASIDE, ()))
        gone = {
            trial.number: trial.user_attrs["training"]
            for trial in self._study.get_trials(deepcopy=False, states=(TrialState.FAIL,))
            if trial.user_attrs.get("attempt", 0) <= failed.get(trial.user_attrs["training"], -1)
            and trial.user_attrs.get(EPOCHS) == self._epochs
            and trial.number not in known
            and isinstance(self.history.outcomes.get(trial.user_attrs["training"]), Failure)
            and entry.failure(trial.user_attrs)
        }
        for key in gone.values():
            set_aside_records(self._trainings / key, failed[key])
        if gone:
            with reporting_lost_storage(self._what):
                self._study.set_user_attr(SET_ASIDE, sorted(known | gone.keys()))
            self.history = self.history.without(set(gone.values()))

    def restore(self, conclusion: dict[str, Any] | None) -> None:
        """Write into a study that was made anew what only files hold: earlier decisions, and the result of `final`."""
        with reporting_lost_storage(self._what):
            for revision in range(self._revision):
                path = self._folder / DECISIONS
                for decision in read_decisions(path.with_stem(f"{path.stem}-{revision + 1}")):
                    self._study.set_user_attr(decision_key(revision, decision.step), decision_to_values(decision))
        if conclusion:
            self.conclude(conclusion)

    def conclude(self, values: dict[str, Any]) -> None:
        with reporting_lost_storage(self._what):
            self._study.set_user_attr(CONCLUSION, values)
            self._verdict = values["verdict"]
            self._notes.show(self.history.decisions, self._verdict)

    def finish(self, history: History) -> None:
        """End the trials of trainings that still run when the search is over: they were started ahead."""
        failure = Failure(reason=Reason.UNNEEDED, message="the search was over before it ended")
        with reporting_lost_storage(self._what):
            for one in list(self._open.values()):
                self._tell(one, history, Record(outcome=failure, curve=()))
            # One that was made twice, because the database did and its answer was lost.
            for trial in self._study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
                self._study.tell(trial.number, state=TrialState.FAIL)

    def close(self) -> None:
        with self._held, reporting_lost_storage(self._what):
            self._notes.write()

    def _catch_up(self) -> None:
        for frozen in self._study.get_trials(deepcopy=False):
            if frozen.user_attrs.get(EPOCHS) == self._epochs:
                self._firsts.setdefault(frozen.user_attrs["candidate"], frozen._trial_id)
                if frozen.state.is_finished():
                    self._restore_curve(frozen)
        for _ in self._study.get_trials(deepcopy=False, states=(TrialState.WAITING,)):
            self._study.ask()
        for frozen in self._study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            key = frozen.user_attrs["training"]
            trial = optuna.Trial(self._study, frozen._trial_id)
            if frozen.user_attrs.get(EPOCHS) != self._epochs:
                # If the run returns to these epochs, the training continues in another trial.
                trial.set_user_attr("outcome", Reason.UNNEEDED.value)
                self._study.tell(trial, state=TrialState.FAIL)
                continue
            self._repair_metrics(key, self.history)
            one = self._open[key] = _OpenTrial(
                trial=trial, known=dict(frozen.user_attrs), reported=set(frozen.intermediate_values)
            )
            for epoch in self.history.curves.get(key, ()):
                self._report(one, epoch)
            if found := self._final_record(key):
                one.attempt, record = found
                self.history = self._tell(one, self.history, record)
        self._repair_decisions()

    def _final_record(self, key: str) -> tuple[int, Record] | None:
        return outlast(self._trainings / key, partial(final_record, self._trainings / key))

    def _restore_curve(self, ended: FrozenTrial) -> None:
        """Take epochs that the study knows, and the file of the training has lost, from its final record."""
        key = ended.user_attrs["training"]
        if len(ended.intermediate_values) > len(self.history.curves.get(key, ())) and (
            found := self._final_record(key)
        ):
            for epoch in found[1].curve:
                self.history = self.history.with_epoch(key, epoch)
            self._repair_metrics(key, self.history)

    def _ask(self, training: Training, history: History) -> _OpenTrial:
        network = training.candidate.network
        values = entry.params(network)
        known = entry.description(training, self._costs(training.candidate))
        if self._epochs is not None:
            known[EPOCHS] = self._epochs
        # Creating a whole trial is one transaction; suggesting each parameter would be a dozen. The trial is created
        # as running, because asking for a waiting one reads all running trials: 10 ms for 8 of them, 57 ms for 100.
        template = optuna.create_trial(
            state=TrialState.RUNNING,
            params=values,
            distributions=_distributions(network, values),
            user_attrs=known,
        )
        template.datetime_start = datetime.now()
        trial = optuna.Trial(self._study, self._storage.create_new_trial(self._study._study_id, template))
        one = self._open[training.id] = _OpenTrial(trial=trial, known=known, reported=set())
        if training.candidate.id not in self._firsts:
            self._firsts[training.candidate.id] = trial._trial_id
            if self._diagram:
                with TemporaryDirectory() as temporary:
                    path = Path(temporary) / "network.svg"
                    path.write_text(self._diagram(network), encoding="utf-8")
                    upload_artifact(
                        artifact_store=artifact_store(self._folder),
                        file_path=str(path),
                        study_or_trial=trial,
                        mimetype="image/svg+xml",
                    )
        self._repair_metrics(training.id, history)
        for epoch in history.curves.get(training.id, ()):  # of an earlier trial that was not needed then
            self._report(one, epoch)
        return one

    def _add_epoch(self, one: _OpenTrial, history: History, epoch: Epoch) -> History:
        key = one.known["training"]
        grown = history.with_epoch(key, epoch)
        if grown is not history:
            with (self._trainings / key / METRICS_FILE).open("a", encoding="utf-8") as file:
                file.write(json.dumps(epoch_to_values(epoch)) + "\n")
            self._report(one, epoch)
        return grown

    def _report(self, one: _OpenTrial, epoch: Epoch) -> None:
        if epoch.number not in one.reported and "accuracy" in epoch.metrics:
            one.trial.report(epoch.metrics["accuracy"], epoch.number)
            one.reported.add(epoch.number)

    def _tell(self, one: _OpenTrial, history: History, record: Record) -> History:
        key = one.known["training"]
        for epoch in record.curve:
            history = self._add_epoch(one, history, epoch)
        outcome = entry.truncated_outcome(record.outcome)
        ended = {**entry.result(outcome), "attempt": one.attempt, "worker": one.worker}
        if isinstance(outcome, Score):
            for name, file in PER_IMAGE.items():
                if (images := getattr(outcome, name)) is not None:
                    write_atomic(self._trainings / key / file, images)
            if source := reused_from(self._trainings / key):
                ended[REUSED] = source
        for name, value in ended.items():
            one.trial.set_user_attr(name, value)
        if isinstance(outcome, Score):
            self._study.tell(one.trial, outcome.accuracy, state=TrialState.COMPLETE)
        else:
            self._study.tell(one.trial, state=TrialState.FAIL)
        del self._open[key]
        # A training that was not needed may be requested again; then it continues in a new trial.
        is_unneeded = isinstance(outcome, Failure) and outcome.reason is Reason.UNNEEDED
        return history if is_unneeded else history.with_outcome(key, outcome)

    def _repair_metrics(self, key: str, history: History) -> None:
        """Rewrite the metrics file if it differs from the history: its training is in no trial, or a line is torn.

        Epochs that are left out are reported again.
        """
        path = self._trainings / key / METRICS_FILE
        path.parent.mkdir(parents=True, exist_ok=True)
        _write_lines(path, map(epoch_to_values, history.curves.get(key, ())))

    def _repair_decisions(self) -> None:
        _write_lines(self._folder / DECISIONS, map(decision_to_values, self.history.decisions))
        self._notes.show(self.history.decisions, self._verdict)


def _write_lines(path: Path, lines: Iterable[dict[str, Any]]) -> None:
    """Write a file of JSON lines anew, unless it has these lines already."""
    text = "".join(json.dumps(line) + "\n" for line in lines)
    if (path.read_text(encoding="utf-8", errors="replace") if path.exists() else "") != text:
        write_atomic(path, text.encode())


def _distributions(network: Network, values: dict[str, int]) -> dict[str, BaseDistribution]:
    """The ranges of a trial's parameters. They are the same for all networks of a run."""
    highs = {}
    for stage in network.stages:
        own = sum(not block.added for block in stage.blocks)
        highs[f"{stage.name}.msa"] = highs[f"{stage.name}.others"] = own + 1  # one may be added at the end
        highs[f"{stage.name}.window"] = max(stage.size)
        highs[f"{stage.name}.heads"] = MOST_HEADS
    return {name: IntDistribution(0, max(highs[name], value)) for name, value in values.items()}
