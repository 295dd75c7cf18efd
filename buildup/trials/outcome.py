"""Outcomes of trainings: a score, or a failure with a reason and a message."""

import base64
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

START, IMITATION = "start_accuracy", "imitation_error"
"""Metrics of a network with pretrained weights: its accuracy before the first epoch, and the mean error with which its
new blocks then imitate those that they replace."""


PER_IMAGE = {"correct": "correct.bits", "losses": "losses.f16", "validated": "validated.bits"}
"""The fields of a score that hold a value for each image, and their files in the folder of a training."""


class Reason(StrEnum):
    """Why a training has no score."""

    DIVERGED = "diverged"
    """The loss became infinite or not a number."""
    OUT_OF_MEMORY = "out_of_memory"
    DISK_FULL = "disk_full"
    """Its folder could not be written."""
    REFUSED = "refused"
    """Its data or files are not valid."""
    BROKEN = "broken"
    """The code raised, twice; the message is the traceback."""
    HOST_FAULT = "host_fault"
    """Its machine failed: the GPU, the driver, or a file that could not be read."""
    LOST = "lost"
    """Its worker died repeatedly without progress."""
    UNNEEDED = "unneeded"
    """It was stopped early because a verdict was reached without it."""

    @property
    def is_infrastructure(self) -> bool:
        """Whether the cause is the machine, not the candidate. No verdict may rest on such a failure."""
        return self in {Reason.DISK_FULL, Reason.REFUSED, Reason.LOST, Reason.HOST_FAULT}

    @property
    def is_avoidable(self) -> bool:
        """Whether another attempt may avoid it: all but a loss that became infinite."""
        return self is not Reason.DIVERGED


class Failed(Exception):
    """Raised inside a training to end it with a failure."""

    def __init__(self, reason: Reason, message: str) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message

    def __reduce__(self) -> tuple[type["Failed"], tuple[Reason, str]]:
        return Failed, (self.reason, self.message)


@dataclass(frozen=True, slots=True, kw_only=True)
class Epoch:
    """The metrics of one epoch of a training."""

    number: int
    metrics: Mapping[str, float]
    """`accuracy` in percent of the validation images; `train_loss`, `nll`, `ece`, `lr`, `seconds` and more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """The validation result of a finished training."""

    accuracy: float
    """In percent: higher is better, and a difference of 1 is one point."""
    metrics: Mapping[str, float] = field(default_factory=dict)
    correct: bytes | None = None
    """Per-image correctness in validation order, packed to one bit an image; None if unknown."""
    losses: bytes | None = None
    """Per-image negative log-likelihood in nats, as little-endian float16; None if unknown."""
    images: int = 0
    validated: bytes | None = None
    """Which images of the set were validated on, one bit an image; None if all trainings share them."""
    seconds: float = 0.0
    device: str = ""
    """The device model, such as NVIDIA A100-SXM4-40GB; several are joined by commas if it continued on another; empty
    if unknown."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """A training without a score. The search goes on with it as a result."""

    reason: Reason
    message: str
    seconds: float = 0.0

    @property
    def summary(self) -> str:
        """The last line of the message: the exception, if the message is a traceback."""
        return self.message.strip().rpartition("\n")[2]


Outcome = Score | Failure


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """The final record of a training, written once and atomically at its end."""

    outcome: Outcome
    curve: tuple[Epoch, ...]


def short_hash(data: bytes) -> str:
    """A short hash that detects damaged files."""
    return hashlib.sha256(data).hexdigest()[:16]


def epoch_to_values(epoch: Epoch) -> dict[str, Any]:
    """An epoch, ready for JSON: one line of `metrics.jsonl`."""
    return {"number": epoch.number, "metrics": dict(epoch.metrics)}


def epoch_from_values(values: Mapping[str, Any]) -> Epoch:
    return Epoch(number=values["number"], metrics=values["metrics"])


def record_to_values(record: Record) -> dict[str, Any]:
    outcome = record.outcome
    if isinstance(outcome, Score):
        ended: dict[str, Any] = {
            "score": {
                "accuracy": outcome.accuracy,
                "metrics": dict(outcome.metrics),
                **{name: _text(getattr(outcome, name)) for name in PER_IMAGE},
                "images": outcome.images,
                "seconds": outcome.seconds,
                "device": outcome.device,
            }
        }
    else:
        ended = {"failure": {"reason": outcome.reason.value, "message": outcome.message, "seconds": outcome.seconds}}
    return {**ended, "curve": [epoch_to_values(epoch) for epoch in record.curve]}


def record_from_values(values: dict[str, Any]) -> Record:
    outcome: Outcome
    if "score" in values:
        score = dict(values["score"])
        images: dict[str, Any] = {name: _bytes(score.pop(name, None)) for name in PER_IMAGE}
        outcome = Score(**score, **images)
    else:
        failure = values["failure"]
        outcome = Failure(reason=Reason(failure["reason"]), message=failure["message"], seconds=failure["seconds"])
    return Record(outcome=outcome, curve=tuple(epoch_from_values(epoch) for epoch in values["curve"]))


def _text(data: bytes | None) -> str | None:
    return None if data is None else base64.b64encode(data).decode()


def _bytes(text: str | None) -> bytes | None:
    return None if text is None else base64.b64decode(text)
