"""What a trial of the study says of a training, as plain values, and how an outcome is read back from them."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from buildup.graph.network import Network
from buildup.trials.decision import Decision
from buildup.trials.history import History
from buildup.trials.outcome import Failure, Outcome, Reason, Score
from buildup.trials.training import Training, candidate_id

LONGEST_TEXT = 500
LONGEST_MESSAGE = 1500
LARGEST_METRICS = 1200
"""Bytes, so that all attributes of a trial stay within 4 KB."""


def params(network: Network) -> dict[str, int]:
    """A network as the parameters of its trial: four numbers a stage, 0 for none.

    Window is the side of what one place attends to; others are blocks of other kinds, and those that the base lacks.

    >>> from buildup.graph.network import sketch
    >>> params(sketch("CCMK"))
    {'c1.msa': 2, 'c1.window': 7, 'c1.heads': 3, 'c1.others': 0}
    """
    values = {}
    for stage in network.stages:
        told = [block.kind.trial_params(stage.size) for block in stage.blocks]
        others = [one.get("others", int(block.added)) for one, block in zip(told, stage.blocks, strict=True)]
        values[f"{stage.name}.msa"] = sum(one.get("msa", 0) for one in told)
        values[f"{stage.name}.window"] = max(one.get("window", 0) for one in told)
        values[f"{stage.name}.heads"] = max(one.get("heads", 0) for one in told)
        values[f"{stage.name}.others"] = sum(others)
    return values


def description(training: Training, costs: tuple[int, int] | None) -> dict[str, Any]:
    """What is known of a training before it starts."""
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
    """What its end adds, given its description and what was known before."""
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
        if isinstance(parent, Score) and parent.correct is not None and parent.images == outcome.images:
            values["agreement"] = agreement(outcome, parent)
    if outcome.losses is not None:
        values["losses_hash"] = outcome.losses_hash
    if "throughput" in outcome.metrics:
        values["throughput"] = outcome.metrics["throughput"]
    return values


def agreement(score: Score, parent: Score) -> list[int]:
    """On how many images both are right, only the first, only the parent, and neither.

    >>> ours, theirs = (Score(accuracy=50.0, correct=bytes([bits]), images=4) for bits in (0b11000000, 0b10100000))
    >>> agreement(ours, theirs)
    [1, 1, 1, 1]
    """
    ours, theirs = (
        np.unpackbits(np.frombuffer(one.correct or b"", dtype=np.uint8), count=one.images).astype(bool)
        for one in (score, parent)
    )
    return [int(np.sum(cell)) for cell in (ours & theirs, ours & ~theirs, ~ours & theirs, ~ours & ~theirs)]


def counts(outcome: Outcome) -> bool:
    """Whether an outcome says anything of its candidate."""
    return not (isinstance(outcome, Failure) and outcome.reason is Reason.UNNEEDED)


def failure(attributes: Mapping[str, Any]) -> Failure | None:
    """The failure that a trial tells of; None when it was only not needed, or when nothing is said."""
    reason = attributes.get("outcome", Reason.UNNEEDED)
    if reason == Reason.UNNEEDED:
        return None
    return Failure(reason=Reason(reason), message=attributes["message"], seconds=attributes["seconds"])


def score(accuracy: float, attributes: Mapping[str, Any], correct: bytes | None, losses: bytes | None) -> Score:
    """The score that a trial tells of."""
    return Score(accuracy=accuracy, correct=correct, losses=losses, **attributes["score"])


def written(outcome: Outcome) -> Outcome:
    """An outcome as it will be read back: long messages keep their end, where a traceback says what happened."""
    if isinstance(outcome, Failure):
        message = outcome.message[-LONGEST_MESSAGE:]
        while len(json.dumps(message)) > LONGEST_MESSAGE:
            message = message[len(message) // 10 + 1 :]
        return Failure(reason=outcome.reason, message=message, seconds=outcome.seconds)
    return Score(
        accuracy=float(outcome.accuracy),
        metrics=_fitting(outcome.metrics),
        correct=outcome.correct,
        losses=outcome.losses,
        images=outcome.images,
        seconds=outcome.seconds,
    )


def table(decisions: Sequence[Decision], verdict: str = "") -> str:
    """All decisions, and the verdict of `final` where there is one, as the note of the study."""
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
    """One decision, as the note of its candidate."""
    return f"**{decision.verdict}** at step {decision.step}: {decision.reason}\n\n{decision.edit}"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def _cut(text: str, longest: int) -> str:
    return text if len(text) <= longest else text[: longest - 3] + "..."


def _fitting(metrics: Mapping[str, float]) -> dict[str, float]:
    """The metrics that fit, first come first served."""
    fitting: dict[str, float] = {}
    size = 0
    for name, value in metrics.items():
        size += len(json.dumps({name: float(value)}))
        if size <= LARGEST_METRICS:
            fitting[name] = float(value)
    return fitting
