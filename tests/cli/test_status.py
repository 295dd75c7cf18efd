"""`status`: where a run stands, read from its study."""

import shutil
from pathlib import Path

from buildup.engine.load_state import costs_of, state_of
from buildup.engine.summaries import status_text, status_values
from buildup.store.run_record import open_record
from buildup.store.study_writer import StudyWriter
from buildup.trials.event import Event, Started
from buildup.trials.outcome import Epoch
from buildup.trials.training import Training


def test_trainings_that_run_ahead_of_the_verdicts_are_shown_apart(tried: Path, tmp_path: Path) -> None:
    run = open_record(str(shutil.copytree(tried, tmp_path / "tried")))
    view, history = state_of(run)
    assert view.step is not None
    later = view.step.successor(True)
    assert later is not None
    seed = run.settings.seed
    writer = StudyWriter.open(
        folder=run.folder, storage_url=None, study_name=run.study_name, base=run.network, costs=costs_of
    )
    for candidate in (view.step.candidate, later.candidate):
        training = Training(candidate=candidate, seed=seed)
        for update in (Started(attempt=1, host="node1", pid=4711), Epoch(number=1, metrics={"accuracy": 71})):
            history = writer.record(history, Event(training=training, update=update))
    writer.close()
    values = status_values(run)
    text = status_text(run, values)
    waiting, ahead = values["waiting_for"], values["ahead"]
    assert [one["training"] for one in waiting] == [f"{view.step.candidate.id}-s{seed}"]
    assert [one["training"] for one in ahead] == [f"{later.candidate.id}-s{seed}"]
    assert (ahead[0]["epoch"], ahead[0]["epochs"], ahead[0]["seed"]) == (1, 1, seed)
    assert f"begun ahead of the verdicts:\n  {later.candidate.edit}  seed {seed}: epoch 1 of 1" in text
