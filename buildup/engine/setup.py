"""Create the study writer, the workers and the jobs of a run from its settings, and a lost study from its files."""

import logging
import os
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from buildup.engine.graph_cache import costs_of
from buildup.engine.hardware import cpus_per_worker, processes_of, share_of
from buildup.engine.load_state import read_final, replay_of
from buildup.engine.replay import Replay
from buildup.errors import RunError, counted
from buildup.execution.dispatcher import FetchReusable, MakeJob
from buildup.execution.ray_tune import RayEvaluator
from buildup.models.pretrained import check_pretrained
from buildup.report.diagram import graph_svg
from buildup.store.remote_folder import mark_remote
from buildup.store.run_dir import DECISIONS, acquire_run_lock, final_record, read_decisions
from buildup.store.run_record import RunRecord
from buildup.store.storage import STUDY_FILES, is_final, set_aside
from buildup.store.study_writer import StudyWriter
from buildup.training.data import forget_data, open_unchanged
from buildup.training.dataset import parse_fraction
from buildup.training.fit import Job, fit
from buildup.trials.event import Event
from buildup.trials.final_result import final_to_values
from buildup.trials.history import History
from buildup.trials.training import RATE, Training

log = logging.getLogger("buildup")


def check_data(run: RunRecord) -> None:
    """Raise if the data or the pretrained weights are not those that the run started with."""
    settings = run.settings
    forget_data()
    open_unchanged(
        settings.dataset, settings.data_dir, settings.image_size, run.recipe, run.data.streamed, run.data.hash
    )
    if run.start:
        check_pretrained(run.network, run.start)


def create_writer(run: RunRecord) -> StudyWriter:
    return StudyWriter.create(**_study(run))


def open_writer(run: RunRecord) -> StudyWriter:
    """Open the study of a run, or of its final. It is created if the process died before it could create it.

    That of a final is created again if its file is lost: its trainings are known, and their final records are taken.
    """
    try:
        return StudyWriter.open(**_study(run), revision=len(run.earlier), epochs=run.other_epochs)
    except RunError:
        is_lost_final = is_final(run.folder) and not (run.settings.storage or (run.folder / STUDY_FILES[0]).exists())
        if not is_lost_final and any(True for folder in run.folder.glob("trainings*") for _ in folder.iterdir()):
            raise
    return create_writer(run)


def _study(run: RunRecord) -> dict[str, Any]:
    return {
        "folder": run.folder,
        "storage_url": run.settings.storage,
        "study_name": run.study_name,
        "base": run.network,
        "costs": costs_of,
        "diagram": partial(graph_svg, name=run.settings.base),
    }


def rebuild_study(run: RunRecord) -> None:
    """Set the damaged study aside, and write a new one with all trainings that have ended and their decisions.

    The final records of the trainings hold all scores, and decisions follow from them by replay. What the study alone
    held is lost: when trainings began and ended, on which worker, and trials that were not needed.
    """
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


def start_workers(
    run: RunRecord, *, verbose: bool, whole: bool = False, fetch_reusable: FetchReusable | None = None
) -> RayEvaluator:
    """Start the workers of a run; with `whole`, they train on the validation images, too."""
    settings, remote = run.settings, run.remote_trainings
    if remote and run.trainings.is_dir() and any(run.trainings.iterdir()):
        remote.check_marked()
    elif remote:
        if not remote.is_empty():
            raise RunError(
                f"{remote}: trainings are there, and {run.trainings} has none. Remove that folder of the storage, too."
            )
        mark_remote(remote)
    return RayEvaluator(
        folder=run.trainings.absolute(),
        train=fit,
        job=job_maker(run, whole=whole),
        workers=settings.workers,
        cpus_per_worker=cpus_per_worker(settings),
        gpus_per_worker=settings.gpus_per_trial,
        accelerator=settings.accelerator,
        address=settings.ray,
        verbose=verbose,
        fetch_reusable=fetch_reusable,
        stall_timeout=settings.stall_timeout,
        name=run.study_name,
        remote=remote,
    )


def job_maker(run: RunRecord, *, whole: bool = False) -> MakeJob:
    """Make the function that makes the jobs of a run; with `whole`, they train on the validation images, too."""
    settings = run.settings
    # Machines of a cluster have an environment of their own.
    named = settings.data_dir or os.environ.get("BUILDUP_DATA")
    data_dir = None if named is None else str(Path(named).absolute())

    def job(training: Training, folder: Path, earlier: Sequence[Path]) -> Job:
        epochs, check = training.candidate.epochs(run.recipe.epochs), training.candidate.check
        recipe = run.recipe if epochs == run.recipe.epochs else run.recipe.with_epochs(epochs)
        return Job(
            network=training.candidate.network,
            seed=training.seed,
            dataset=settings.dataset,
            data_dir=data_dir,
            image_size=settings.image_size,
            fraction=parse_fraction(settings.fraction),
            whole=whole,
            split_seed=run.data.split_seed,
            start=run.start,
            nudged=check == "rounding",
            renewed=check == "fresh",
            recipe=replace(recipe, lr=RATE * recipe.lr) if check == "rate" else recipe,
            device=settings.device,
            device_share=share_of(settings.gpus_per_trial),
            processes=processes_of(settings.gpus_per_trial),
            threads=settings.threads,
            execution=run.execution,
            data_hash=run.data.hash,
            streamed=run.data.streamed,
            folder=str(folder),
            resume_from=tuple(map(str, earlier)),
        )

    return job
