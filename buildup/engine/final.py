"""`final`: base and winner trained anew, the test set opened once, and the claim that follows."""

import logging
from collections.abc import Mapping
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from statistics import fmean

from buildup.engine.export import keep_claim
from buildup.engine.final_run import (
    MOST_SEEDS,
    FinalPlan,
    conclude,
    contenders,
    examine,
    part_of,
    read_final,
    read_plan,
    spared,
    trainings_of,
    tried_again,
    write_final,
    write_plan,
)
from buildup.engine.load_state import state_of
from buildup.engine.loop import train_all
from buildup.engine.problems import Problems
from buildup.engine.replay import View
from buildup.engine.setup import check_data, job_maker, open_writer, start_workers
from buildup.errors import ResourceError, RunError, SearchError
from buildup.report.text_table import final_table
from buildup.report.words import duration
from buildup.settings import FinalSettings
from buildup.statistics.final_test import LEAST_SEEDS
from buildup.statistics.paired_difference import PooledVariance
from buildup.store.run_record import RunRecord, save_record
from buildup.training.data import check_test, describe_data
from buildup.training.execution import check_device
from buildup.training.recipe import load_recipe, recipe_from_values, recipe_to_values
from buildup.trials.event import Event
from buildup.trials.final_result import Final, Part, final_to_values
from buildup.trials.history import History
from buildup.trials.objective import OBJECTIVES
from buildup.trials.outcome import Failure, Record, Score
from buildup.trials.training import Candidate, Training

log = logging.getLogger("buildup")

DEFAULT_SEEDS = 5
CLOSED = "not opened"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Asked:
    """A final that can be carried out."""

    run: RunRecord
    part: RunRecord
    plan: FinalPlan
    networks: Mapping[Part, Candidate]
    trainings: tuple[Training, ...]
    spread: PooledVariance
    images: int
    """What each is trained on."""
    each: float
    """Seconds that a training is expected to take."""


def run_final(run: RunRecord, settings: FinalSettings, *, verbose: bool = False) -> Final | None:
    """Train base and winner anew, open the test set once, and make the claim of a run.

    The same call goes on after any stop. None where the winner is the base, so that there is nothing to claim.

    Raises:
        RequestError: The search has not ended, the test set was used already, or the settings are wrong.
        SearchError: A training failed in a way that another attempt may be spared.
    """
    _refuse_a_second(run)
    view, history = state_of(run)
    if not view.finished:
        raise RunError(
            f"{run.folder}: the search has not ended, so there is no winner to make a claim of. "
            f"Go on with it by `buildup resume {run.folder}`."
        )
    if view.best is view.candidates[0]:
        return None
    return _carry_out(_asked(run, view, history, settings), verbose=verbose)


def _refuse_a_second(run: RunRecord) -> None:
    if found := read_final(run.folder):
        raise RunError(
            f"{run.folder}: the test set was already used for this run, on {found.opened}. A second claim on the same "
            f"images would be chosen by the first. This is what it said:",
            *final_table(found).splitlines(),
            found.verdict,
        )
    if run.data.test_set != CLOSED and read_plan(run) is None:
        raise RunError(
            f"{run.folder}: the test set was already used for this run ({run.data.test_set}), but its final.json "
            f"is gone. Put it back from a copy of the run."
        )


def _asked(run: RunRecord, view: View, history: History, asked: FinalSettings) -> _Asked:
    """What is to be done; raises with all problems at once, and writes nothing."""
    problems = Problems()
    plan = _plan(run, asked, problems)
    workers = problems.whole("--workers", asked.workers, run.settings.workers, most=100_000)
    with problems.caught():
        check_test(run.settings.dataset, run.settings.data_dir)
    with problems.caught():
        check_data(run)
    base, winner = view.candidates[0], view.best
    networks = contenders(base, winner, control=False)
    if plan.control:
        with problems.caught():
            networks = contenders(base, winner, control=True)
    problems.raise_any()
    settings = replace(run.settings, workers=workers, ray=asked.ray or run.settings.ray)
    same = recipe_from_values(dict(plan.recipe)) == run.recipe and run.settings.fraction == "1"
    epoch = [
        outcome.seconds / (len(history.curves.get(key, ())) or settings.epochs)
        for key, outcome in history.outcomes.items()
        if isinstance(outcome, Score)
    ]
    info = describe_data(settings.dataset, settings.data_dir, settings.image_size)
    images = info.train_images + info.val_images
    longer = images / run.data.train_images
    return _Asked(
        run=run,
        part=part_of(replace(run, settings=settings), plan),
        plan=plan,
        networks=networks,
        trainings=trainings_of(run, plan, networks),
        # What seeds do to networks that are trained in another way is not known.
        spread=view.spread if same else PooledVariance(),
        images=images,
        each=plan.epochs * longer * fmean(epoch) if epoch else 0.0,
    )


def _plan(run: RunRecord, asked: FinalSettings, problems: Problems) -> FinalPlan:
    """What is asked for; of a final that was interrupted, what was asked for then."""
    kept = read_plan(run)
    recipe, name = run.recipe, run.settings.recipe
    with problems.caught():
        if asked.recipe:
            recipe, name = load_recipe(asked.recipe), str(asked.recipe)
    seeds = problems.whole("--seeds", asked.seeds, DEFAULT_SEEDS, most=MOST_SEEDS)
    if seeds < LEAST_SEEDS:
        problems.found.append(
            f"--seeds {seeds}: at least {LEAST_SEEDS} are needed. Fewer claim a gain that is not there in more than 5 "
            f"of 100 cases (7 with two seeds, 25 with one, where seeds differ much), and the test set opens only once."
        )
    epochs = problems.whole("--epochs", asked.epochs, recipe.epochs, most=100_000)
    recipe = recipe.with_epochs(epochs) if epochs != recipe.epochs else recipe
    plan = FinalPlan(
        seeds=seeds,
        control=bool(asked.control),
        recipe_name=name,
        recipe=recipe_to_values(recipe),
    )
    if kept is None:
        return plan
    wishes = {
        "--seeds": asked.seeds is not None and plan.seeds != kept.seeds,
        "--control": plan.control and not kept.control,
        "--recipe": asked.recipe and plan.recipe_name != kept.recipe_name,
        "--epochs": asked.epochs is not None and plan.epochs != kept.epochs,
    }
    if changed := [flag for flag, differs in wishes.items() if differs]:
        problems.found.append(
            f"{' and '.join(changed)}: a final of this run has begun, with --seeds {kept.seeds}, --epochs "
            f"{kept.epochs}, --recipe {kept.recipe_name} and {'the' if kept.control else 'no'} control. Go on "
            f"with it by `buildup final {run.folder}`, or remove {run.folder / 'final'} to begin anew."
        )
    return kept


def _carry_out(asked: _Asked, *, verbose: bool) -> Final:
    run, part = asked.run, asked.part
    with ExitStack() as stack:
        # The writer of the search, too: it holds the run, and takes the result in.
        writer = stack.enter_context(closing(open_writer(run)))
        write_plan(run, asked.plan)
        history = _train(asked, verbose=verbose)
        if failed := spared(history):
            raise SearchError(
                f"{len(failed)} of {len(asked.trainings)} trainings failed: "
                + "; ".join(f"{key}: {failure.reason.value}: {failure.summary}" for key, failure in failed.items())
                + f". The test set stays closed. Mend the cause, and `buildup final {run.folder}` tries these again."
            )
        # Before they are opened: should this process die now, they count as opened.
        opened = replace(run, data=replace(run.data, test_set="opened by buildup final"))
        save_record(opened)
        log.info("all trainings have ended; the test set is opened")
        scores = examine(part, asked.trainings, history, _device(run))
        found = conclude(
            asked.plan,
            asked.networks,
            asked.trainings,
            history,
            scores,
            asked.spread,
            objective=OBJECTIVES[run.settings.objective],
            train_images=asked.images,
        )
        writer.conclude(final_to_values(found))
        write_final(opened, found)
    keep_claim(opened)
    return found


def _train(asked: _Asked, *, verbose: bool) -> History:
    part, trainings = asked.part, asked.trainings
    with ExitStack() as stack:
        writer = stack.enter_context(closing(open_writer(part)))
        history = tried_again(part, writer.history)
        left = [training for training in trainings if training.id not in history.outcomes]
        if not left:
            return history
        rounds = -(-len(left) // part.settings.workers)
        log.info(
            f"final of {asked.run.folder}: {len(left)} of {len(trainings)} trainings are left, {asked.plan.epochs} "
            f"epochs on all training images each, about {duration(rounds * asked.each)}"
        )
        names = {candidate.id: name for name, candidate in asked.networks.items()}

        def see(event: Event, left: int) -> None:
            if isinstance(event.update, Record):
                training, outcome = event.training, event.update.outcome
                how = f"failed: {outcome.reason.value}  " if isinstance(outcome, Failure) else ""
                name = f"{names[training.candidate.id]}  seed {training.seed}"
                log.info(f"training   {name}  {how}{outcome.seconds:.1f} s  ({left} left)")

        workers = stack.enter_context(closing(start_workers(part, job_maker(part, whole=True), verbose=verbose)))
        return train_all(trainings, workers, writer, history, see)


def _device(run: RunRecord) -> str:
    """Where this process scores: on the device of the trainings, where this machine has it."""
    try:
        return check_device(run.settings.device)
    except ResourceError:
        return check_device("auto")
