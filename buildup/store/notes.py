"""The notes that optuna-dashboard shows of a study: all decisions, and that on each candidate.

A note can be written again from the decisions, so it may be written late: the table grows with each decision, and at
500 trainings writing it each time took as long as everything else in the study. optuna-dashboard brings scikit-learn
and pandas, so it is loaded by the first note.
"""

import copy
import time
from collections.abc import Mapping, Sequence
from typing import Any

import optuna
from optuna.storages import BaseStorage

from buildup.trials.decision import Decision

NOTES_SHARE = 0.02
"""Largest share of the time that goes into notes."""

ABOUT = """Each trial is a network, and its value is the mean accuracy of its trainings. A grey trial was dropped:
its verdict is a constraint. So the line of best values goes through the networks that were kept, and the best trial is
the one that the search ended with. The other study has a trial for each training.

What you write in a note stays, and the report of the run shows it. A word with a # before it is a tag."""


def interval(decision: Decision) -> str:
    """The interval of a decision; `none` where the judge gives none."""
    low, high = decision.ci
    return f"{low:+.2f} to {high:+.2f}" if decision.level else "none"


def table(decisions: Sequence[Decision], verdict: str = "") -> str:
    """The note of the study: all decisions, and the verdict of `final` if there is one."""
    rows = [
        f"| {one.step} | `{_cell(one.layout)}` | {_cell(one.edit)} | {one.gain:+.2f} "
        f"| {interval(one)} | {one.seeds} | {one.verdict} | {_cell(one.reason)} |"
        for one in decisions
    ]
    head = [
        "| step | layout | edit | gain | interval | seeds | verdict | reason |",
        "|---|---|---|---|---|---|---|---|",
    ]
    warning = (
        "Parameter importances mean something for sampled strategies only: "
        "the build-up rule never varies one parameter by itself."
    )
    final = ["## Final", "", _cell(verdict), ""] if verdict else []
    return "\n".join([*final, "## Decisions", "", *head, *rows, "", warning])


def about(decisions: Sequence[Decision], verdict: str) -> str:
    """The note of the study of networks: what it shows, and the decisions that led to the winner."""
    return f"{ABOUT}\n\n{table([one for one in decisions if one.kept], verdict)}"


def note(decision: Decision) -> str:
    """The note of a candidate: its decision."""
    return f"**{decision.verdict}** at step {decision.step}: {decision.reason}\n\n{decision.edit}"


class Notes:
    """Writes the notes of one study."""

    def __init__(self, study: optuna.Study, trials: Mapping[str, int]) -> None:
        """`trials` are the first trial of each candidate, by its id."""
        self._study = study
        self._trials = trials
        self._latest: tuple[Sequence[Decision], str] = ((), "")
        self._written = (0, "")
        self._due = 0.0

    def show(self, decisions: Sequence[Decision], verdict: str) -> None:
        """Set what the notes show from the next `write` on: all decisions so far and the verdict of `final`."""
        self._latest = (decisions, verdict)

    def write(self, *, late: bool = False) -> None:
        """Write what changed; with `late`, only if notes have taken a small share of the time so far."""
        decisions, verdict = self._latest
        began = time.monotonic()
        if self._written == (len(decisions), verdict) or (late and began < self._due):
            return
        study = copy.copy(self._study)
        study._storage = _ReadOnce(study._storage, study._study_id)  # type: ignore[assignment]
        _write(study, table(decisions, verdict))
        for decision in decisions[self._written[0] :]:
            if decision.candidate in self._trials:
                _write(optuna.Trial(study, self._trials[decision.candidate]), note(decision))
        self._written = len(decisions), verdict
        ended = time.monotonic()
        self._due = ended + (ended - began) / NOTES_SHARE


class _ReadOnce:
    """A storage that reads the attributes of a study once, and writes those that change.

    Notes are study attributes, and the functions of optuna-dashboard read all attributes three times for each note.
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
    from optuna_dashboard import get_note, save_note

    if get_note(where) != text:
        save_note(where, text)


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
