"""Trackers are told of a search as it goes, and can't end it."""

import logging
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from buildup.errors import RequestError
from buildup.graph.network import sketch
from buildup.report import trackers as module
from buildup.report.trackers import TRACKERS, VERDICTS, TrackerKind, Tracking, check_trackers, name_of
from buildup.trials.decision import Decision
from buildup.trials.event import Event, Started
from buildup.trials.outcome import Epoch, Failure, Reason, Record, Score
from buildup.trials.training import Candidate, Training

TRAINING = Training(candidate=Candidate(network=sketch("CC|CM")), seed=3)
EPOCHS = tuple(Epoch(number=number, metrics={"accuracy": 60.0 + number, "nll": 1.0}) for number in (1, 2))
DECISION = Decision(
    step=1, candidate="one", parent="base", edit="c2.1: conv -> msa", layout="CC|CM", scores=(62.0,),
    parent_scores=(61.0,), gain=1.0, ci=(0.5, 1.5), verdict="keep", reason="so", judge="likely", level=0.9, looks=1,
    seeds=1,
)  # fmt: skip
EVENTS: tuple[Event | Decision, ...] = (
    Event(training=TRAINING, update=Started(attempt=1, host="node", pid=7)),
    *(Event(training=TRAINING, update=epoch) for epoch in EPOCHS),
    Event(training=TRAINING, update=Record(outcome=Score(accuracy=62.0), curve=EPOCHS)),
    DECISION,
)
NAME = name_of(TRAINING)


@dataclass
class Told:
    fails: bool = False
    begun: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    logged: list[tuple[str, Mapping[str, float], int]] = field(default_factory=list)
    closed: int = 0

    def begin(self, name: str, values: Mapping[str, Any]) -> None:
        self.begun[name] = values

    def log(self, name: str, metrics: Mapping[str, float], step: int) -> None:
        if self.fails:
            raise ConnectionError("the server is gone")
        self.logged.append((name, metrics, step))

    def close(self) -> None:
        self.closed += 1


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> dict[str, Told]:
    """Two trackers, the first of which fails when it is told of an epoch."""
    both = {"broken": Told(fails=True), "good": Told()}
    kinds = {name: TrackerKind(name=name, package="sys", open=lambda *_, one=one: one) for name, one in both.items()}
    monkeypatch.setattr(module, "TRACKERS", kinds)
    return both


def test_a_tracker_sees_each_epoch_and_verdict_and_one_that_fails_is_left_out_alone(
    told: dict[str, Told], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tracking = Tracking.begin(["broken", "good"], tmp_path, {})
    with caplog.at_level(logging.WARNING, logger="buildup"):
        for event in EVENTS:
            tracking(event)
        tracking(Event(training=TRAINING, update=Record(outcome=Failure(reason=Reason.DIVERGED, message=""), curve=())))
    tracking.close()
    good = told["good"]
    assert good.begun == {NAME: {"layout": "CC|CM", "edit": "", "seed": 3, "worker": "node:7"}}
    assert good.logged == [
        *((NAME, epoch.metrics, epoch.number) for epoch in EPOCHS),
        (NAME, {"score": 62.0}, 2),
        (VERDICTS, {"gain": 1.0, "low": 0.5, "high": 1.5, "kept": 1.0}, 1),
    ]
    assert (good.closed, told["broken"].closed) == (1, 0)
    assert [one.getMessage() for one in caplog.records] == [
        "warning: --track broken: left out from here on: ConnectionError: the server is gone"
    ]


def test_tensorboard_writes_event_files_that_hold_the_points(tmp_path: Path) -> None:
    tracking = Tracking.begin(["tensorboard"], tmp_path, {})
    for event in EVENTS:
        tracking(event)
    tracking.close()
    written = {path.parent.name: path.read_bytes() for path in (tmp_path / "tensorboard").rglob("events*")}
    assert written.keys() == {NAME, VERDICTS}
    assert b"accuracy" in written[NAME]
    assert b"gain" in written[VERDICTS]


@pytest.mark.parametrize("library", ["wandb", "trackio"])
def test_trackers_of_one_run_get_metrics_under_the_name_of_the_training(
    library: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[tuple[str, Any]] = []

    def follow(called: str, *told: object, **named: object) -> None:
        calls.append((called, told or named))

    fake = ModuleType(library)
    for function in ("init", "log", "finish"):
        monkeypatch.setattr(fake, function, partial(follow, function), raising=False)
    monkeypatch.setitem(sys.modules, library, fake)
    tracking = Tracking.begin([library], tmp_path / "demo", {"base": "resnet18"})
    for event in EVENTS:
        tracking(event)
    tracking.close()
    assert calls[0] == ("init", {"project": "buildup", "name": "demo", "config": {"base": "resnet18"}})
    assert calls[1] == ("log", ({f"{NAME}/accuracy": 61.0, f"{NAME}/nll": 1.0, f"{NAME}/step": 1},))
    assert [name for name, _ in calls] == ["init", "log", "log", "log", "log", "finish"]


def test_an_unknown_tracker_and_a_missing_package_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RequestError, match=r"unknown tracker 'tensorbord'.*tensorboard"):
        check_trackers(["tensorbord"])
    monkeypatch.setattr(module, "find_spec", lambda name: None)
    with pytest.raises(RequestError, match="--track mlflow: mlflow is not installed"):
        check_trackers(["mlflow"])
    assert {"tensorboard", "mlflow", "wandb", "trackio"} <= set(TRACKERS)
