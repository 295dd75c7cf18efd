"""`calibrate`: a few candidates of a run trained the cheap ways, to see how well those rank them."""

from collections.abc import Mapping
from contextlib import ExitStack, closing
from dataclasses import asdict, replace
from functools import partial
from typing import Any

from buildup.commands.problems import Problems
from buildup.commands.progress import say
from buildup.commands.signals import interruptible
from buildup.errors import RequestError
from buildup.report.sections.ranking import rows
from buildup.report.table import aligned
from buildup.search.assemble import check_data, job_maker, open_journal, start_workers
from buildup.search.batch import train_all
from buildup.search.calibration import (
    WAYS,
    Calibration,
    Way,
    choose,
    inherited,
    part_of,
    rankings,
    write_rankings,
)
from buildup.search.evaluate import Ended, Event
from buildup.search.folder import Run, open_run
from buildup.search.state import state_of
from buildup.trials.history import History
from buildup.trials.training import Training

CANDIDATES = 5
SHARE = 0.3


def calibrate(flags: Mapping[str, Any]) -> tuple[str, dict[str, Any]] | int:
    """The rankings, as text and as values."""
    run = open_run(flags["run"])
    if run.settings.inherit:
        raise RequestError(
            f"{run.folder}: its own candidates were trained from their parents' weights, so there are no full scores "
            f"to hold cheap ones against. Calibrate a run without --inherit."
        )
    problems = Problems()
    count = problems.whole("--candidates", flags["candidates"], CANDIDATES, least=3, most=1000)
    share = problems.number("--share", flags["share"], SHARE, least=0.01, most=1)
    workers = problems.whole("--workers", flags["workers"], run.settings.workers, most=100_000)
    problems.raise_any()
    asked = choose(run, *state_of(run), count=count, share=share)
    for training in asked.trainings("continued"):
        inherited(run, "continued", training)  # says which weights are missing, before anything is trained
    check_data(run)
    run = replace(run, settings=replace(run.settings, workers=workers, ray=flags["ray"] or run.settings.ray))
    try:
        with interruptible():
            return _carry_out(run, asked, verbose=bool(flags["verbose"]))
    except KeyboardInterrupt:
        say(f"Interrupted. Go on with the same command: buildup calibrate {run.folder}")
        return 130


def _carry_out(run: Run, asked: Calibration, *, verbose: bool) -> tuple[str, dict[str, Any]]:
    with closing(open_journal(run)) as journal:  # it holds the run, too
        full = journal.history
        if missing := [training for training in asked.full if training.id not in full.outcomes]:
            say(f"{len(missing)} full trainings that the search ended early")
            with closing(start_workers(run, job_maker(run), verbose=verbose)) as workers:
                full = train_all(missing, workers, journal, full, _see)
        cheap = {way: _train(run, asked, way, verbose=verbose) for way in WAYS}
        found = rankings(run, asked, full, cheap)
        write_rankings(run, found)
    layouts = [candidate.layout for candidate in asked.candidates]
    text = [
        *aligned(rows(found), right=range(1, 5)),
        "",
        f"{len(layouts)} candidates, {len(asked.seeds)} seeds: {', '.join(layouts)}",
        f"`buildup report {run.folder}` tells it beside the early epochs of all candidates.",
    ]
    return "\n".join(text), {
        "run": str(run.folder),
        "candidates": layouts,
        "seeds": len(asked.seeds),
        "epochs": asked.epochs,
        "rankings": [asdict(one) for one in found],
    }


def _train(run: Run, asked: Calibration, way: Way, *, verbose: bool) -> History:
    part, trainings = part_of(run, way, asked.epochs), asked.trainings(way)
    part.trainings.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        journal = stack.enter_context(closing(open_journal(part)))
        left = [training for training in trainings if training.id not in journal.history.outcomes]
        say(f"{way}: {len(left)} of {len(trainings)} trainings of {asked.epochs} epochs are left")
        if not left:
            return journal.history
        job = job_maker(part)
        if way != "anew":
            job = job_maker(part, inherits=partial(inherited, run, way))
        workers = stack.enter_context(closing(start_workers(part, job, verbose=verbose)))
        return train_all(trainings, workers, journal, journal.history, _see)


def _see(event: Event, left: int) -> None:
    if isinstance(event, Ended):
        training: Training = event.training
        say(f"training   {training.candidate.layout}  seed {training.seed}  ({left} left)")
