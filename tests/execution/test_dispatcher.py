"""How often a training may lose its worker."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from buildup.execution.dispatcher import MAX_WORKER_LOSSES, TrialDispatcher
from buildup.graph.network import sketch
from buildup.trials.candidate import Candidate
from buildup.trials.event import Started
from buildup.trials.outcome import Epoch, Failure, Reason, Record
from buildup.trials.training import Training

TRAINING = Training(candidate=Candidate(network=sketch("CC|CC")), seed=0)


def lives(folder: Path, reached: list[int]) -> list[Reason]:
    """Workers take a training up one after the other, each as far as an epoch, and die; with what it came to."""

    def train(job: object) -> Any:
        raise AssertionError("nothing is trained here")

    dispatcher = TrialDispatcher(folder=folder, train=train, job=lambda *_: None, workers=1)
    dispatcher.request([TRAINING])
    ends: list[Reason] = []
    for life, last in enumerate(reached):
        if (assignment := dispatcher.next_assignment(str(life))) is None:
            break
        dispatcher.report(str(life), Started(attempt=assignment.attempt, host="here", pid=life))
        for number in range(1, last + 1):
            dispatcher.report(str(life), Epoch(number=number, metrics={}))
        dispatcher.release(str(life), "it died")
    while not dispatcher.events.empty():
        update = dispatcher.events.get().update
        if isinstance(update, Record):
            assert isinstance(update.outcome, Failure)
            ends.append(update.outcome.reason)
    return ends


@pytest.mark.parametrize("epochs", [0, 1, 4])
def test_a_training_is_lost_when_its_worker_dies_three_times_at_one_epoch(tmp_path: Path, epochs: int) -> None:
    assert lives(tmp_path / "early", [epochs] * (MAX_WORKER_LOSSES - 1)) == []
    assert lives(tmp_path / "late", [epochs] * MAX_WORKER_LOSSES) == [Reason.LOST]


def test_a_training_that_gets_further_each_time_is_never_lost(tmp_path: Path) -> None:
    assert lives(tmp_path, [1, 2, 2, 3, 4, 5, 5, 6, 7]) == []


@given(st.lists(st.integers(0, 4), max_size=12))
def test_a_training_without_end_is_lost_at_last(tmp_path_factory: pytest.TempPathFactory, reached: list[int]) -> None:
    assert lives(tmp_path_factory.mktemp("lives"), [*reached, *[0] * MAX_WORKER_LOSSES]) == [Reason.LOST]
