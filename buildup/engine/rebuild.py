"""Make the study of a run anew from its files, where `study.db` was lost or damaged.

The final records of the trainings hold all scores, and decisions follow from them by replay. What the study alone held
is lost: when trainings began and ended, on which worker, and trials that were not needed.
"""

import logging
from contextlib import closing
from pathlib import Path

from buildup.engine.load_state import read_final, replay_of
from buildup.engine.replay import Replay
from buildup.engine.setup import create_writer, open_writer
from buildup.errors import counted
from buildup.store.run_dir import DECISIONS, acquire_run_lock, final_record, read_decisions
from buildup.store.run_record import RunRecord
from buildup.store.storage import set_aside
from buildup.store.study_writer import StudyWriter
from buildup.trials.event import Event
from buildup.trials.final_result import final_to_values
from buildup.trials.history import History

log = logging.getLogger("buildup")


def rebuild_study(run: RunRecord) -> None:
    """Set the damaged study aside, and write a new one with all trainings that have ended and their decisions."""
    before = read_decisions(run.folder / DECISIONS)
    final = read_final(run.folder)
    if run.settings.storage is None:
        with closing(acquire_run_lock(run.folder)):
            if place := set_aside(run.folder):
                log.info(f"{place}: the former study")
    create_writer(run).close()
    with closing(open_writer(run)) as writer:
        writer.restore(final_to_values(final) if final else None)
        history = _adopt(replay_of(run), writer, run.trainings)
    found = f"{counted(len(history.outcomes), 'training')} and {counted(len(history.decisions), 'decision')}"
    log.info(f"{run.folder}: {found} were restored")
    for kept, made in zip(before, history.decisions, strict=False):
        if kept != made:
            log.warning(
                f"warning: {run.folder}: decision {kept.step} was {kept.verdict} for {kept.layout} ({kept.reason}); "
                f"from the records it is {made.verdict} for {made.layout} ({made.reason})."
            )


def _adopt(replay: Replay, writer: StudyWriter, trainings: Path) -> History:
    """Record the trainings that the rule asks for and that have a final record, until one has none."""
    history = writer.history
    while True:
        view = replay.view(history)
        for decision in view.decisions[len(history.decisions) :]:
            history = writer.decide(history, decision)
        found = [
            Event(training=training, update=record[1])
            for training in (*view.needed, *view.checks)
            if training.id not in history.outcomes and (record := final_record(trainings / training.id))
        ]
        if not found:
            return history
        for event in found:
            history = writer.record(history, event)
