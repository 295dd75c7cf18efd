"""Trackers are told of a search as it goes, and can't end it."""

import logging
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import pytest

from buildup.errors import RequestError
from buildup.graph.network import sketch
from buildup.report import trackers as module
from buildup.report.trackers import TRACKERS, VERDICTS, TensorBoard, TrackerKind, Tracking, check_trackers, name_of
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
    tracking = Tracking(["broken", "good"], tmp_path, {})
    with caplog.at_level(logging.WARNING, logger="buildup"):
        for event in EVENTS:
            tracking(event)
        tracking.close()
    good = told["good"]
    assert good.begun == {NAME: {"layout": "CC|CM", "edit": "", "seed": 3, "worker": "node:7"}}
    assert good.logged == [
        *((NAME, epoch.metrics, epoch.number) for epoch in EPOCHS),
        (NAME, {"score": 62.0}, 2),
        (VERDICTS, {"gain": 1.0, "low": 0.5, "high": 1.5, "kept": 1.0}, 1),
    ]
    assert (good.closed, told["broken"].closed) == (1, 1)  # a tracker that is left out lets go of what it holds
    assert [one.getMessage() for one in caplog.records] == [
        "warning: --track broken: left out from here on: ConnectionError: the server is gone"
    ]


def test_tensorboard_writes_event_files_that_hold_the_points(tmp_path: Path) -> None:
    tracking = Tracking(["tensorboard"], tmp_path, {})
    for event in EVENTS:
        tracking(event)
    tracking.close()
    written = {path.parent.name: path.read_bytes() for path in (tmp_path / "tensorboard").rglob("events*")}
    assert written.keys() == {NAME, VERDICTS}
    assert b"accuracy" in written[NAME]
    assert b"gain" in written[VERDICTS]


def test_a_training_that_ends_lets_go_of_its_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each open writer has three file descriptors: a long search would run out of them."""
    followed: list[TensorBoard] = []

    def begin(*run: Any) -> TensorBoard:
        followed.append(TensorBoard(*run))
        return followed[0]

    kind = TrackerKind(name="tensorboard", package="tensorboardX", open=begin)
    monkeypatch.setattr(module, "TRACKERS", {"tensorboard": kind})
    monkeypatch.setattr(TensorBoard, "close", lambda self: None)
    tracking = Tracking(["tensorboard"], tmp_path, {})
    for outcome in (Score(accuracy=62.0), Failure(reason=Reason.DIVERGED, message="")):
        tracking(EVENTS[0])
        tracking(Event(training=TRAINING, update=Record(outcome=outcome, curve=())))
    tracking.close()
    assert followed[0]._writers == {}


def test_a_training_that_did_not_begin_here_is_told_as_a_whole(told: dict[str, Told], tmp_path: Path) -> None:
    """One that was reused, or that ended while no search ran, comes as nothing but its record."""
    tracking = Tracking(["good"], tmp_path, {})
    tracking(Event(training=TRAINING, update=Record(outcome=Score(accuracy=62.0), curve=EPOCHS)))
    tracking.close()
    assert told["good"].begun == {NAME: {"layout": "CC|CM", "edit": "", "seed": 3}}
    assert told["good"].logged == [
        *((NAME, epoch.metrics, epoch.number) for epoch in EPOCHS),
        (NAME, {"score": 62.0}, 2),
    ]


def test_mlflow_gets_a_run_for_each_training_and_ends_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    client = MagicMock()
    client.create_run.side_effect = lambda _, tags: SimpleNamespace(info=SimpleNamespace(run_id=tags["mlflow.runName"]))
    fake, entities = ModuleType("mlflow"), ModuleType("mlflow.entities")
    monkeypatch.setattr(fake, "MlflowClient", lambda: client, raising=False)
    monkeypatch.setattr(entities, "Param", lambda *param: param, raising=False)
    monkeypatch.setattr(entities, "Metric", lambda *metric: metric, raising=False)
    monkeypatch.setitem(sys.modules, "mlflow", fake)
    monkeypatch.setitem(sys.modules, "mlflow.entities", entities)
    tracking = Tracking(["mlflow"], tmp_path, {})
    for event in (*EVENTS, EVENTS[3]):
        tracking(event)
    tracking.close()
    assert [call.args for call in client.set_terminated.call_args_list] == [(NAME,), (NAME,), (VERDICTS,)]
    logged = [
        (call.args[0], *metric[:2])
        for call in client.log_batch.call_args_list
        for metric in call.kwargs.get("metrics", ())
    ]
    assert logged.count((NAME, "accuracy", 62.0)) == 2
    assert (VERDICTS, "gain", 1.0) in logged


@pytest.mark.parametrize("hangs", ["open", "log"])
def test_a_tracker_that_hangs_is_left_out_and_the_search_does_not_wait(
    hangs: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    free = threading.Event()
    slow = Told()

    def hang(*_: object) -> Told:
        free.wait(30)
        return slow

    monkeypatch.setattr(slow, "log", hang)
    opened = hang if hangs == "open" else lambda *_: slow
    monkeypatch.setattr(module, "TRACKERS", {"slow": TrackerKind(name="slow", package="sys", open=opened)})
    monkeypatch.setattr(module, "WAITING", 5)
    tracking = Tracking(["slow"], tmp_path, {})
    begun = time.monotonic()
    for _ in range(8):
        tracking(DECISION)
    tracking.close()
    assert time.monotonic() - begun < 5
    free.set()
    tracking.followers[0].join(30)
    assert slow.closed == 1
    assert [one.getMessage() for one in caplog.records] == [
        "warning: --track slow: left out from here on: it is too slow: 5 events wait for it"
    ]


def test_the_end_of_a_search_waits_for_a_tracker_only_a_while(
    told: dict[str, Told], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    free = threading.Event()
    monkeypatch.setattr(told["good"], "log", lambda *_: free.wait(30))
    monkeypatch.setattr(module, "CLOSING", 0.05)
    tracking = Tracking(["good"], tmp_path, {})
    tracking(DECISION)
    tracking.close()
    assert "--track good: left out from here on: it did not end within 0.05 seconds" in caplog.text
    free.set()


@pytest.mark.parametrize(
    ("library", "own"),
    [("wandb", {"settings": {"x_disable_meta": True, "console": "off"}}), ("trackio", {})],
)
def test_trackers_of_one_run_get_metrics_under_the_name_of_the_training(
    library: str, own: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[tuple[str, Any]] = []

    def follow(called: str, *told: object, **named: object) -> None:
        calls.append((called, told or named))

    fake = ModuleType(library)
    for function in ("init", "log", "finish"):
        monkeypatch.setattr(fake, function, partial(follow, function), raising=False)
    monkeypatch.setattr(fake, "Settings", dict, raising=False)
    monkeypatch.setitem(sys.modules, library, fake)
    tracking = Tracking([library], tmp_path / "demo", {"base": "resnet18"})
    for event in EVENTS:
        tracking(event)
    tracking.close()
    assert calls[0] == ("init", {"project": "buildup", "name": "demo", "config": {"base": "resnet18"}} | own)
    assert calls[1] == ("log", ({f"{NAME}/accuracy": 61.0, f"{NAME}/nll": 1.0, f"{NAME}/step": 1},))
    assert [name for name, _ in calls] == ["init", "log", "log", "log", "log", "finish"]


def test_no_version_of_wandb_uploads_a_command_line_that_may_hold_a_password() -> None:
    def older(_disable_meta: bool, console: str) -> dict[str, Any]:
        return {"_disable_meta": _disable_meta, "console": console}

    fake = ModuleType("wandb")
    fake.Settings = older  # type: ignore[attr-defined]
    assert module._private(fake) == {"_disable_meta": True, "console": "off"}
    fake.Settings = lambda console: None  # type: ignore[attr-defined]
    with pytest.raises(TypeError):  # so it is left out
        module._private(fake)


def test_an_unknown_tracker_and_a_missing_package_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RequestError, match=r"unknown tracker 'tensorbord'.*tensorboard"):
        check_trackers(["tensorbord"])
    monkeypatch.setattr(module, "find_spec", lambda name: None)
    with pytest.raises(RequestError, match="--track mlflow: mlflow is not installed"):
        check_trackers(["mlflow"])
    assert {"tensorboard", "mlflow", "wandb", "trackio"} <= set(TRACKERS)
