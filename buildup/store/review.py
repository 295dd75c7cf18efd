"""The study of a run as people review it: a second one of its networks, graphs, the report, and nothing that misleads.

`ReviewStorage` is a view. What it shows is made from the study whenever it is asked for, and only people's notes are
written. So nobody can damage a run by a click, and no search, `resume` or replay takes notice of it.
"""

import copy
import json
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from types import SimpleNamespace
from typing import Any

import optuna
from optuna.storages import BaseStorage
from optuna.study import StudyDirection
from optuna.study._frozen import FrozenStudy
from optuna.trial import FrozenTrial, TrialState
from optuna_dashboard import save_plotly_graph_object

from buildup.errors import RunError
from buildup.store.notes import NOTE_KEY, about, note, note_attributes, note_texts, stored_key, tags, with_people
from buildup.store.review_trials import (
    ReviewedNetwork,
    best_of,
    last_kept,
    network_trial,
    networks_of,
    training_trial,
)
from buildup.store.study_reader import CONCLUSION, MARK, Study, decision_key
from buildup.trials.decision import CandidateSummary, Decision, decision_from_values

NETWORKS = 1_000_000_000
"""The id of a study of networks is that of the study of their trainings and this."""
REPORT = "0-0"
"""The id of the artifact that is the report."""
SHARE = 0.1
"""Largest share of the time that goes into looking at the study anew."""
MOST_NOTES = 1000
"""Networks up to which each verdict is a note. The dashboard's time grows with the square of the number of notes."""
Graphs = Callable[[Sequence[CandidateSummary]], Mapping[str, Mapping[str, Any]]]
"""Draws the networks of a run as figures of Plotly, by their ids."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReviewSettings:
    """What is known of a run beside its study."""

    revision: int = 0
    epochs: int | None = None
    params: bool = True
    """Whether parameters are shown as such. Of the build-up rule they would mislead: it never varies one alone."""
    limits: Mapping[str, int]
    """The largest `params` and `macs` of a network, as far as they are limited."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Shown:
    study: FrozenStudy
    trials: list[FrozenTrial]
    best: FrozenTrial | None


class ReviewStorage:
    """An Optuna storage that shows a run as two studies, of its networks and of its trainings."""

    def __init__(self, storage: BaseStorage, study: Study, settings: ReviewSettings, graphs: Graphs) -> None:
        """Show a study of a storage. Other studies in it are shown as they are."""
        self._storage, self._study = storage, study
        self._settings, self._graphs = settings, graphs
        self._lock = threading.RLock()
        self._ended: dict[int, FrozenTrial] = {}
        self._shown: dict[int, _Shown] = {}
        self._due = 0.0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._storage, name)

    @property
    def networks_id(self) -> int:
        return NETWORKS + self._study._study_id

    def get_all_studies(self) -> list[FrozenStudy]:
        shown = self._look()
        others = [one for one in self._storage.get_all_studies() if one._study_id not in shown]
        return [*others, *(one.study for one in shown.values())]

    def get_study_name_from_id(self, study_id: int) -> str:
        shown = self._look().get(study_id)
        return shown.study.study_name if shown else self._storage.get_study_name_from_id(study_id)

    def get_study_id_from_name(self, study_name: str) -> int:
        found = (key for key, one in self._look().items() if one.study.study_name == study_name)
        return next(found, None) or self._storage.get_study_id_from_name(study_name)

    def get_study_directions(self, study_id: int) -> list[StudyDirection]:
        shown = self._look().get(study_id)
        return shown.study.directions if shown else self._storage.get_study_directions(study_id)

    def get_study_user_attrs(self, study_id: int) -> dict[str, Any]:
        shown = self._look().get(study_id)
        return shown.study.user_attrs if shown else self._storage.get_study_user_attrs(study_id)

    def get_study_system_attrs(self, study_id: int) -> dict[str, Any]:
        shown = self._look().get(study_id)
        return shown.study.system_attrs if shown else self._storage.get_study_system_attrs(study_id)

    def get_all_trials(
        self, study_id: int, deepcopy: bool = True, states: Iterable[TrialState] | None = None
    ) -> list[FrozenTrial]:
        shown = self._look().get(study_id)
        if shown is None:
            return self._storage.get_all_trials(study_id, deepcopy, None if states is None else tuple(states))
        wanted = set(TrialState) if states is None else set(states)
        found = [trial for trial in shown.trials if trial.state in wanted]
        return copy.deepcopy(found) if deepcopy else found

    def get_best_trial(self, study_id: int) -> FrozenTrial:
        """The winner of the search, or the best training."""
        shown = self._look().get(study_id)
        if shown is None:
            return self._storage.get_best_trial(study_id)
        if shown.best is None:
            raise ValueError("no training has a score yet")
        return shown.best

    def set_study_system_attr(self, study_id: int, key: str, value: Any) -> None:
        """Store a person's note. Nothing else can be changed."""
        if study_id in self._look():
            if not NOTE_KEY.fullmatch(key):
                raise RunError(f"{key!r} of a run can't be changed; notes can.")
            key = stored_key(key, networks=study_id == self.networks_id)
            self._storage.set_study_system_attr(self._study._study_id, key, value)
            self._due = 0.0  # not before: a look meanwhile would be kept
            return
        self._storage.set_study_system_attr(study_id, key, value)

    def delete_study(self, study_id: int) -> None:
        """Delete a study, unless it is of a run: the dashboard then says that there is none."""
        if study_id in self._look() or MARK in self._storage.get_study_user_attrs(study_id):
            raise KeyError(study_id)
        self._storage.delete_study(study_id)

    def create_new_study(self, directions: Sequence[StudyDirection], study_name: str | None = None) -> int:
        """Refuse: the dashboard would rename a run's study by copying it."""
        raise optuna.exceptions.DuplicatedStudyError(study_name)

    def set_trial_state_values(self, trial_id: int, state: TrialState, values: Sequence[float] | None = None) -> bool:
        raise RunError(f"trial {trial_id}: the result of a training can't be changed.")

    def set_trial_user_attr(self, trial_id: int, key: str, value: Any) -> None:
        raise RunError(f"trial {trial_id}: the attributes of a training can't be changed.")

    def set_trial_system_attr(self, trial_id: int, key: str, value: Any) -> None:
        raise RunError(f"trial {trial_id}: the files of a training can't be changed.")

    def _look(self) -> dict[int, _Shown]:
        """Both studies as they are, or were a moment ago."""
        with self._lock:
            began = time.monotonic()
            if began >= self._due:
                self._shown = self._made()
                ended = time.monotonic()
                self._due = ended + max(1.0, (ended - began) / SHARE)
            return self._shown

    def _made(self) -> dict[int, _Shown]:
        own, trials = self._study._study_id, self._study.get_trials(deepcopy=False)
        facts, stored = self._study.user_attrs, self._storage.get_study_system_attrs(own)
        prefix = decision_key(self._settings.revision)
        decisions = [decision_from_values(facts[key]) for key in sorted(facts) if key.startswith(prefix)]
        verdict = str(facts.get(CONCLUSION, {}).get("verdict", ""))
        networks = networks_of(trials, decisions, self._settings.epochs)
        shown = {
            own: self._trainings(trials, stored),
            self.networks_id: self._networks(networks, decisions, verdict, stored),
        }
        for one in shown.values():
            one.study.user_attrs |= _facts(networks, decisions, verdict, str(facts[MARK]["folder"]))
            one.study.system_attrs |= _attributes(stored)
        return shown

    def _trainings(self, trials: Sequence[FrozenTrial], stored: Mapping[str, Any]) -> _Shown:
        for trial in trials:
            if trial.number not in self._ended and trial.state.is_finished():
                self._ended[trial.number] = training_trial(trial, params=self._settings.params)
        rows = [self._ended.get(one.number) or training_trial(one, params=self._settings.params) for one in trials]
        table_only = {key: value for key, value in stored.items() if key.startswith("dashboard:note_")}
        notes = with_people(table_only, stored, networks=False)
        study = _study(self._study._study_id, self._study.study_name, notes)
        return _Shown(study=study, trials=rows, best=best_of(rows))

    def _networks(
        self,
        networks: Sequence[ReviewedNetwork],
        decisions: Sequence[Decision],
        verdict: str,
        stored: Mapping[str, Any],
    ) -> _Shown:
        notes = note_attributes(None, about(decisions, verdict))
        for one in networks:
            if one.summary.decision and (len(networks) <= MOST_NOTES or one.summary.kept):
                notes |= note_attributes(one.trials[0]._trial_id, note(one.summary.decision))
        notes = with_people(notes, stored, networks=True)
        params, limits = self._settings.params, self._settings.limits
        written = note_texts(notes)
        trials = [
            network_trial(number, one, tags(written.get(one.trials[0]._trial_id, "")), params=params, limits=limits)
            for number, one in enumerate(networks)
        ]
        graphs = _graph_attributes(self._graphs([one.summary for one in networks]))
        study = _study(self.networks_id, f"{self._study.study_name}: networks", {**notes, **graphs})
        return _Shown(study=study, trials=trials, best=last_kept(trials))


BaseStorage.register(ReviewStorage)


def _study(study_id: int, name: str, system: dict[str, Any]) -> FrozenStudy:
    return FrozenStudy(name, StudyDirection.MAXIMIZE, {}, system, study_id)


def _facts(
    networks: Sequence[ReviewedNetwork], decisions: Sequence[Decision], verdict: str, folder: str
) -> dict[str, Any]:
    kept = [one.summary.layout for one in networks if one.summary.kept]
    count = sum(one.kept for one in decisions)
    return {
        **({"base": kept[0], "winner": kept[-1]} if kept else {}),
        "verdicts": f"{count} kept, {len(decisions) - count} dropped",
        "final": verdict or "not yet",
        "folder": folder,
    }


def _attributes(stored: Mapping[str, Any]) -> dict[str, Any]:
    report = {"artifact_id": REPORT, "filename": "report.html", "mimetype": "text/html", "encoding": None}
    names = {key: value for key, value in stored.items() if key == "study:metric_names"}
    return {**names, f"artifacts:{REPORT}": json.dumps(report)}


def _graph_attributes(figures: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """Figures as the dashboard keeps them, which `save_plotly_graph_object` would write for a figure of Plotly."""
    study = optuna.create_study()
    for name, figure in figures.items():
        # Of a figure of Plotly, no more than this is asked for.
        as_json = SimpleNamespace(to_json=partial(json.dumps, figure))
        save_plotly_graph_object(study, as_json, graph_object_id=name)
    return {str(key): str(value) for key, value in study._storage.get_study_system_attrs(study._study_id).items()}
