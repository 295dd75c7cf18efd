"""Attributes of trials and of the study: outcomes of trainings, and the notes that optuna-dashboard shows.

A note shows the decisions, from which it can be written again. So notes may be written late: the table grows with each
decision, and at 500 trainings writing it each time took as long as everything else in the study.
"""

import copy
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import optuna
from optuna.storages import BaseStorage
from optuna_dashboard import get_note, save_note

from buildup.graph.network import Network
from buildup.trials.decision import Decision
from buildup.trials.history import History
from buildup.trials.outcome import Failure, Outcome, Reason, Score, short_hash
from buildup.trials.training import Training, candidate_id

LONGEST_TEXT = 500
LONGEST_MESSAGE = 1500
LARGEST_METRICS = 1200
"""Bytes; with these limits all attributes of a trial stay within 4 KB."""
NOTES_SHARE = 0.02
"""Largest share of the time that goes into notes."""


def params(network: Network) -> dict[str, int]:
    """A network as the parameters of its trial: four numbers for each stage, 0 for none.

    `window` is the side of the area that one position attends to; `others` counts blocks of other kinds and added ones.

    >>> from buildup.graph.network import sketch
    >>> params(sketch("CCMK"))
    {'c1.msa': 2, 'c1.window': 7, 'c1.heads': 3, 'c1.others': 0}
    """
    values = {}
    for stage in network.stages:
        blocks = [block.kind.trial_params(stage.size) for block in stage.blocks]
        others = [one.get("others", int(block.added)) for one, block in zip(blocks, stage.blocks, strict=True)]
        values[f"{stage.name}.msa"] = sum(one.get("msa", 0) for one in blocks)
        values[f"{stage.name}.window"] = max(one.get("window", 0) for one in blocks)
        values[f"{stage.name}.heads"] = max(one.get("heads", 0) for one in blocks)
        values[f"{stage.name}.others"] = sum(others)
    return values


def description(training: Training, costs: tuple[int, int] | None) -> dict[str, Any]:
    """The attributes of a training before it starts."""
    candidate = training.candidate
    values: dict[str, Any] = {
        "training": training.id,
        "candidate": candidate.id,
        "layout": _cut(candidate.layout, LONGEST_TEXT),
        "parent": candidate.parent.id if candidate.parent else None,
        "edit": _cut(candidate.edit, LONGEST_TEXT),
        "seed": training.seed,
    }
    if costs is not None:
        values["params"], values["macs"] = costs
    return values


def result(known: Mapping[str, Any], outcome: Outcome, history: History) -> dict[str, Any]:
    """The attributes that the end of a training adds, given its description and the history."""
    if isinstance(outcome, Failure):
        return {"outcome": outcome.reason.value, "message": outcome.message, "seconds": outcome.seconds}
    others = [
        other.accuracy
        for key, other in history.outcomes.items()
        if candidate_id(key) == known["candidate"] and key != known["training"] and isinstance(other, Score)
    ]
    values: dict[str, Any] = {
        "outcome": "score",
        "mean_score": (sum(others) + outcome.accuracy) / (len(others) + 1),
        "score": {"images": outcome.images, "seconds": outcome.seconds, "metrics": _fitting(outcome.metrics)},
    }
    if outcome.correct is not None:
        values["correct_hash"] = outcome.correct_hash
        parent = history.outcome(known["parent"], known["seed"]) if known["parent"] else None
        if (
            isinstance(parent, Score)
            and parent.correct is not None
            and parent.validated == outcome.validated
            and parent.images == outcome.images
        ):
            values["agreement"] = agreement(outcome, parent)
    if outcome.losses is not None:
        values["losses_hash"] = outcome.losses_hash
    if outcome.validated is not None:
        values["validated_hash"] = short_hash(outcome.validated)
    if "throughput" in outcome.metrics:
        values["throughput"] = outcome.metrics["throughput"]
    return values


def agreement(score: Score, parent: Score) -> list[int]:
    """The number of images on which both are right, only the first, only the parent, and neither.

    >>> ours, theirs = (Score(accuracy=50.0, correct=bytes([bits]), images=4) for bits in (0b11000000, 0b10100000))
    >>> agreement(ours, theirs)
    [1, 1, 1, 1]
    """
    ours, theirs = (
        np.unpackbits(np.frombuffer(one.correct or b"", dtype=np.uint8), count=one.images).astype(bool)
        for one in (score, parent)
    )
    return [int(np.sum(cell)) for cell in (ours & theirs, ours & ~theirs, ~ours & theirs, ~ours & ~theirs)]


def failure(attributes: Mapping[str, Any]) -> Failure | None:
    """The failure in a trial's attributes; None if the training was not needed, or the trial holds no outcome."""
    reason = attributes.get("outcome", Reason.UNNEEDED)
    if reason == Reason.UNNEEDED:
        return None
    return Failure(reason=Reason(reason), message=attributes["message"], seconds=attributes["seconds"])


def truncated_outcome(outcome: Outcome) -> Outcome:
    """An outcome as it is read back later: of long messages the end, where a traceback names the exception."""
    if isinstance(outcome, Failure):
        message = outcome.message[-LONGEST_MESSAGE:]
        while len(json.dumps(message)) > LONGEST_MESSAGE:
            message = message[len(message) // 10 + 1 :]
        return Failure(reason=outcome.reason, message=message, seconds=outcome.seconds)
    return replace(outcome, accuracy=float(outcome.accuracy), metrics=_fitting(outcome.metrics))


def table(decisions: Sequence[Decision], verdict: str = "") -> str:
    """The note of the study: all decisions, and the verdict of `final` if there is one."""
    rows = [
        f"| {one.step} | `{_cell(one.layout)}` | {_cell(one.edit)} | {one.gain:+.2f} "
        f"| {one.ci[0]:+.2f} to {one.ci[1]:+.2f} | {one.seeds} | {one.verdict} | {_cell(one.reason)} |"
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
    if get_note(where) != text:
        save_note(where, text)


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def _cut(text: str, longest: int) -> str:
    return text if len(text) <= longest else text[: longest - 3] + "..."


def _fitting(metrics: Mapping[str, float]) -> dict[str, float]:
    """The first metrics that fit into the limit."""
    fitting: dict[str, float] = {}
    size = 0
    for name, value in metrics.items():
        size += len(json.dumps({name: float(value)}))
        if size <= LARGEST_METRICS:
            fitting[name] = float(value)
    return fitting
