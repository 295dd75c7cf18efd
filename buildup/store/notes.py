"""The notes that optuna-dashboard shows of a study: all decisions, that on each candidate, and what people write.

The notes of the program can be written again from the decisions, so they may be written late: the table grows with each
decision, and at 500 trainings writing it each time took as long as everything else in the study. optuna-dashboard
brings scikit-learn and pandas, so it is loaded by the first note.

Its notes are also written anew when a run goes on. So the notes of people are stored apart, under keys that neither the
dashboard nor the program writes to by itself.
"""

import copy
import re
import time
from collections.abc import Mapping, Sequence
from typing import Any

import optuna
from optuna.storages import BaseStorage

from buildup.store.study_reader import CONCLUSION, Study
from buildup.trials.decision import Decision, decision_from_values

NOTES_SHARE = 0.02
"""Largest share of the time that goes into notes."""

ABOUT = """Each trial is a network, and its value is the mean accuracy of its trainings. A grey trial was dropped:
its verdict is a constraint. So the line of best values goes through the networks that were kept, and the best trial is
the one that the search ended with. The other study has a trial for each training.

What you write in a note stays, and the report of the run shows it. A word with a # before it is a tag."""

PEOPLE = "people:"
NETWORKS = "networks:"
"""Before the keys of a note on the whole of the networks, which is another than that on all trainings."""
NOTE_KEY = re.compile(r"dashboard:(?:(\d+):)?note_(?:ver|str:\d+)")
"""A key of the dashboard for a part of a note or its version. The number is that of a trial."""
TAG = re.compile(r"(?<!\S)#(\w[\w-]*)")
PART = 2045
"""Characters of a note in one attribute."""


def interval(decision: Decision) -> str:
    low, high = decision.ci
    return f"{low:+.2f} to {high:+.2f}" if decision.level else "none"


def table(decisions: Sequence[Decision], verdict: str = "") -> str:
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


def stored_key(key: str, *, networks: bool) -> str:
    """Where a person's note is stored that the dashboard would write to a key.

    >>> stored_key("dashboard:5:note_str:0", networks=True), stored_key("dashboard:note_ver", networks=True)
    ('people:dashboard:5:note_str:0', 'people:networks:dashboard:note_ver')
    """
    return f"{PEOPLE}{NETWORKS if networks and trial_of(key) is None else ''}{key}"


def with_people(generated: Mapping[str, Any], attributes: Mapping[str, Any], *, networks: bool) -> dict[str, Any]:
    """Notes as the dashboard reads them: those of people in place of the generated ones on the same trial."""
    found = {}
    for key, value in attributes.items():
        if key.startswith(PEOPLE):
            own = key.removeprefix(PEOPLE).removeprefix(NETWORKS)
            if trial_of(own) is not None or key.startswith(PEOPLE + NETWORKS) == networks:
                found[own] = value
    written = {trial_of(key) for key in found}
    return {key: value for key, value in generated.items() if trial_of(key) not in written} | found


def note_texts(attributes: Mapping[str, Any]) -> dict[int | None, str]:
    """The notes in the dashboard's attributes, by trial; None is the study."""
    parts: dict[int | None, list[tuple[int, str]]] = {}
    for key, value in attributes.items():
        if ":note_str:" in f":{key}":
            parts.setdefault(trial_of(key), []).append((int(key.rpartition(":")[2]), value))
    return {trial: "".join(text for _, text in sorted(found)) for trial, found in parts.items()}


def trial_of(key: str) -> int | None:
    """The trial that a key of the dashboard is about; None if that is the study.

    >>> trial_of("dashboard:5:note_str:0"), trial_of("dashboard:note_ver")
    (5, None)
    """
    match = NOTE_KEY.fullmatch(key)
    return int(match[1]) if match and match[1] else None


def read_people_notes(study: Study) -> list[tuple[str, str]]:
    """What people wrote about a run: for each note what it is on, and its text without what the program wrote."""
    system = study._storage.get_study_system_attrs(study._study_id)
    if not any(key.startswith(PEOPLE) for key in system):
        return []
    facts = study.user_attrs
    decisions = [decision_from_values(value) for key, value in facts.items() if key.startswith("decision")]
    written = (about(decisions, ""), table(decisions, facts.get(CONCLUSION, {}).get("verdict", "")))
    generated = {line for text in (*written, *map(note, decisions)) for line in text.splitlines() if line}
    networks = note_texts(with_people({}, system, networks=True))
    texts = [
        ("all networks", networks.pop(None, "")),
        ("all trainings", note_texts(with_people({}, system, networks=False)).get(None, "")),
    ]
    known = {trial._trial_id: trial.user_attrs for trial in study.get_trials(deepcopy=False)}
    for trial, text in networks.items():
        if trial in known:
            texts.append((f"{known[trial]['layout']}, {known[trial]['edit'] or 'the base'}", text))
    own = [
        (what, "\n".join(line for line in text.splitlines() if line not in generated).strip()) for what, text in texts
    ]
    return [(what, text) for what, text in own if text]


def note_attributes(trial_id: int | None, text: str) -> dict[str, Any]:
    """The attributes in which the dashboard finds a note, in its first version."""
    start = "dashboard:" if trial_id is None else f"dashboard:{trial_id}:"
    parts = [text[place : place + PART] for place in range(0, len(text), PART)]
    return {f"{start}note_ver": 1} | {f"{start}note_str:{number}": part for number, part in enumerate(parts)}


def tags(text: str) -> tuple[str, ...]:
    """The words of a note with a # before them.

    >>> tags("# Odd\\n#promising, again with seed 3 #later")
    ('promising', 'later')
    """
    return tuple(dict.fromkeys(TAG.findall(text)))
