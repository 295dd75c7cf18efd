"""A database server that is away for a while holds up a search, and does not end it."""

import logging
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from buildup.errors import SearchError
from buildup.graph.network import sketch
from buildup.store import outage, storage
from buildup.store.study_reader import read_history
from buildup.store.study_writer import StudyWriter
from buildup.trials.event import Event, Started
from buildup.trials.history import History
from buildup.trials.outcome import Epoch, Record, Score
from buildup.trials.training import Candidate, Training

if TYPE_CHECKING:
    from tests.store.conftest import Server

NETWORK = sketch("CC|CC")


@pytest.fixture
def writer(server: "Server", tmp_path: Path) -> Iterator[StudyWriter]:
    arguments = {"folder": tmp_path / "run", "storage_url": server.url, "study_name": "run", "base": NETWORK}
    with closing(StudyWriter.create(**arguments)) as writer:  # type: ignore[arg-type] # of several types
        yield writer


def trained(writer: StudyWriter, history: History, seed: int) -> History:
    training = Training(candidate=Candidate(network=NETWORK), seed=seed)
    score = Score(accuracy=80.0 + seed)
    for update in (
        Started(attempt=1, host="node1", pid=4711),
        Epoch(number=1, metrics={"accuracy": 80.0}),
        Record(outcome=score, curve=()),
    ):
        history = writer.record(history, Event(training=training, update=update))
    return history


@pytest.mark.slow
def test_a_server_that_is_stopped_for_twenty_seconds_is_waited_for(
    server: "Server", writer: StudyWriter, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "buildup")
    history = trained(writer, writer.history, 0)
    server.stop()
    back = threading.Timer(20, server.start)
    back.start()
    history = trained(writer, history, 1)
    back.join()
    [lost, found] = [record.getMessage() for record in caplog.records]
    assert "does not answer" in lost
    assert "tried again for 15 minutes" in lost
    assert "answers again after" in found
    assert read_history(tmp_path / "run", server.url, "run") == history
    assert len(history.outcomes) == 2


@pytest.mark.slow
def test_a_server_that_hangs_is_left_and_found_again(
    server: "Server", writer: StudyWriter, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(storage, "ANSWER_TIMEOUT", 2)
    monkeypatch.setattr(storage, "CONNECT_TIMEOUT", 1)
    server.signal(signal.SIGSTOP)
    back = threading.Timer(8, server.signal, [signal.SIGCONT])
    back.start()
    try:
        writer.conclude({"verdict": "proven"})
    finally:
        back.join()
    assert "no answer for" in caplog.text


@pytest.mark.slow
def test_a_server_that_hangs_does_not_hold_up_ctrl_c(server: "Server", writer: StudyWriter) -> None:
    history = trained(writer, writer.history, 0)
    server.signal(signal.SIGSTOP)
    pressed = threading.Timer(3, os.kill, [os.getpid(), signal.SIGINT])
    began = time.monotonic()
    pressed.start()
    try:
        with pytest.raises(KeyboardInterrupt):
            trained(writer, history, 1)
        assert time.monotonic() - began < 10
    finally:
        pressed.join()
        server.signal(signal.SIGCONT)


@pytest.mark.slow
def test_a_server_that_stays_away_ends_the_search_and_says_so(
    server: "Server", writer: StudyWriter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outage, "LIMIT", 3)
    server.stop()
    try:
        with pytest.raises(SearchError, match="can't be written any more"):
            trained(writer, writer.history, 0)
    finally:
        server.start()
