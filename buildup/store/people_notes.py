"""What people write about a run in optuna-dashboard.

The program writes a note of each verdict, and writes it anew when a run goes on. So the notes of people are stored
apart, under keys that neither the dashboard nor the program writes to by itself.
"""

import re
from collections.abc import Mapping
from typing import Any

from buildup.store.notes import about, note, table
from buildup.store.study_reader import Study
from buildup.store.study_writer import CONCLUSION
from buildup.trials.decision import decision_from_values

PEOPLE = "people:"
NETWORKS = "networks:"
"""Before the keys of a note on the whole of the networks, which is another than that on all trainings."""
NOTE_KEY = re.compile(r"dashboard:(?:(\d+):)?note_(?:ver|str:\d+)")
"""A key of the dashboard for a part of a note or its version. The number is that of a trial."""
TAG = re.compile(r"(?<!\S)#(\w[\w-]*)")
PART = 2045
"""Characters of a note in one attribute."""


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
