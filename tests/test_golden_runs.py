"""Runs of releases, replayed from their scores by this version and the installed Optuna: the verdicts stay.

Each release adds one, of its folder without weights, logs and pictures:

    tar -cJf tests/fixtures/run_X_Y_Z.tar.xz --exclude='attempt-*' --exclude=metrics.jsonl --exclude=export \
        --exclude=artifacts --exclude='*.html' RUN
"""

import tarfile
from dataclasses import replace
from pathlib import Path

import pytest

from buildup.engine.load_state import replay_of, state_of
from buildup.store.run_record import open_record
from buildup.trials.decision import Decision

RUNS = sorted((Path(__file__).parent / "fixtures").glob("run_*.tar.xz"))


def told(decision: Decision) -> tuple[object, ...]:
    """What must not change. The words of a reason may, and the interval of a verdict in its last digits."""
    where = (decision.step, decision.candidate, decision.parent, decision.edit, decision.layout)
    return (*where, decision.verdict, decision.seeds, decision.looks, decision.scores, decision.parent_scores)


def figures(decision: Decision) -> tuple[float, ...]:
    return (decision.gain, *decision.ci)


@pytest.mark.parametrize("archive", RUNS, ids=lambda path: path.name.partition(".")[0])
def test_a_run_of_a_release_is_decided_as_it_was(archive: Path, tmp_path: Path) -> None:
    with tarfile.open(archive) as packed:
        packed.extractall(tmp_path, filter="data")
    (folder,) = tmp_path.iterdir()
    run = open_record(str(folder))
    _, history = state_of(run)
    assert history.decisions
    again = replay_of(run).view(replace(history, decisions=()))
    assert [told(decision) for decision in again.decisions] == [told(decision) for decision in history.decisions]
    for now, then in zip(again.decisions, history.decisions, strict=True):
        assert figures(now) == pytest.approx(figures(then), rel=1e-6, abs=1e-9)
