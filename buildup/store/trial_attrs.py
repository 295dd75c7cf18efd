"""Attributes of trials: outcomes of trainings, and what describes a training before it starts."""

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from buildup.graph.network import Network
from buildup.trials.outcome import PER_IMAGE, Failure, Outcome, Reason, short_hash
from buildup.trials.training import Training

LONGEST_TEXT = 500
LONGEST_MESSAGE = 1500
LARGEST_METRICS = 1200
"""Bytes; with these limits all attributes of a trial stay within 4 KB."""


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


def result(outcome: Outcome) -> dict[str, Any]:
    if isinstance(outcome, Failure):
        return {"outcome": outcome.reason.value, "message": outcome.message, "seconds": outcome.seconds}
    values: dict[str, Any] = {
        "outcome": "score",
        "score": {
            "images": outcome.images,
            "seconds": outcome.seconds,
            "metrics": _fitting(outcome.metrics),
            "device": outcome.device,
        },
    }
    for name in PER_IMAGE:
        if (images := getattr(outcome, name)) is not None:
            values[f"{name}_hash"] = short_hash(images)
    if "throughput" in outcome.metrics:
        values["throughput"] = outcome.metrics["throughput"]
    return values


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


def _cut(text: str, longest: int) -> str:
    return text if len(text) <= longest else text[: longest - 3] + "..."


def _fitting(metrics: Mapping[str, float]) -> dict[str, float]:
    fitting: dict[str, float] = {}
    size = 0
    for name, value in metrics.items():
        size += len(json.dumps({name: float(value)}))
        if size <= LARGEST_METRICS:
            fitting[name] = float(value)
    return fitting
