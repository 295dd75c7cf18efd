"""What people read of a run in optuna-dashboard: the decision table at the study, each decision at its candidate.

Notes are for people, and all of them can be made anew from the decisions. So they may come a moment late: the table
grows with each decision, and at 500 trainings writing it each time took as long as all else in the study.
"""

import copy
import time
from collections.abc import Mapping, Sequence
from typing import Any

import optuna
from optuna.storages import BaseStorage
from optuna_dashboard import get_note, save_note

from buildup.store import trial_attrs as entry
from buildup.trials.decision import Decision

SHARE = 0.02
"""Of the time, at most, goes into notes."""


class Notes:
    """The notes of one study."""

    def __init__(self, study: optuna.Study, trials: Mapping[str, int]) -> None:
        """Write for a study, in which these are the first trials of the candidates."""
        self._study = study
        self._trials = trials
        self._latest: tuple[Sequence[Decision], str] = ((), "")
        self._written = (0, "")
        self._due = 0.0

    def show(self, decisions: Sequence[Decision], verdict: str) -> None:
        """Have all decisions so far written soon, and what `final` found."""
        self._latest = (decisions, verdict)

    def write(self, *, late: bool = False) -> None:
        """Write what is new; with `late`, only if that took little of the time so far."""
        decisions, verdict = self._latest
        began = time.monotonic()
        if self._written == (len(decisions), verdict) or (late and began < self._due):
            return
        study = copy.copy(self._study)
        study._storage = _ReadOnce(study._storage, study._study_id)  # type: ignore[assignment]
        _write(study, entry.table(decisions, verdict))
        for decision in decisions[self._written[0] :]:
            if decision.candidate in self._trials:
                _write(optuna.Trial(study, self._trials[decision.candidate]), entry.note(decision))
        self._written = len(decisions), verdict
        ended = time.monotonic()
        self._due = ended + (ended - began) / SHARE


class _ReadOnce:
    """A storage that reads the attributes of a study once, and writes those that change.

    All notes of a study are such attributes, and the dashboard's own functions read them all three times a note.
    """

    def __init__(self, storage: BaseStorage, study_id: int) -> None:
        self._storage = storage
        self._attributes = storage.get_study_system_attrs(study_id)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._storage, name)

    def get_study_system_attrs(self, study_id: int) -> dict[str, Any]:
        return self._attributes

    def set_study_system_attr(self, study_id: int, key: str, value: Any) -> None:
        if self._attributes.get(key) != value:
            self._storage.set_study_system_attr(study_id, key, value)
            self._attributes[key] = value


def _write(where: optuna.Study | optuna.Trial, text: str) -> None:
    if get_note(where) != text:
        save_note(where, text)
