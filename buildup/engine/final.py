"""`final`: base and winner trained anew, the test set opened once, and the claim that follows."""

import json
from collections.abc import Mapping
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Any

from buildup.cli.progress import say
from buildup.cli.signals import interruptible
from buildup.engine.batch import train_all
from buildup.engine.export import keep_claim
from buildup.engine.final_run import (
    MOST_SEEDS,
    Plan,
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
from buildup.engine.problems import Problems
from buildup.engine.replay import View
from buildup.engine.setup import check_data, job_maker, open_journal, start_workers
from buildup.errors import ResourceError, RunError, SearchError
from buildup.execution.evaluator import Ended, Event
from buildup.report.final_table import final_table
from buildup.report.words import duration
from buildup.statistics.final_test import LEAST_SEEDS
from buildup.statistics.paired_difference import Spread
from buildup.store.run_dir import Run, open_run, save
from buildup.training.data import check_test, describe_data
from buildup.training.device import check_device
from buildup.training.recipe import load_recipe, recipe_from_values, recipe_to_values
from buildup.trials.candidate import Candidate
from buildup.trials.final_result import Final, Part, final_to_values
from buildup.trials.history import History
from buildup.trials.objective import OBJECTIVES
from buildup.trials.outcome import Failure, Score
from buildup.trials.training import Training

DEFAULT_SEEDS = 5
CLOSED = "not opened"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Asked:
    """A final that can be carried out."""

    run: Run
    part: Run
    plan: Plan
    networks: Mapping[Part, Candidate]
    trainings: tuple[Training, ...]
    spread: Spread
    images: int
    """What each is trained on."""
    each: float
    """Seconds that a training is expected to take."""


def final(flags: Mapping[str, Any]) -> int:
    """Make the claim of a run, once."""
    run = open_run(flags["run"])
    _refuse_a_second(run)
    view, history = state_of(run)
    if not view.finished:
        raise RunError(
            f"{run.folder}: the search has not ended, so there is no winner to make a claim of. "
            f"Go on with it by `buildup resume {run.folder}`."
        )
    if view.best is view.candidates[0]:
        return _nothing(run, as_json=bool(flags["json"]))
    asked = _asked(run, view, history, flags)
    try:
        with interruptible():
            return _carry_out(asked, verbose=bool(flags["verbose"]), as_json=bool(flags["json"]))
    except KeyboardInterrupt:
        say(f"Interrupted. Go on with: buildup final {run.folder}")
        return 130


def _refuse_a_second(run: Run) -> None:
    if found := read_final(run.folder):
        raise RunError(
            f"{run.folder}: the test set was already used for this run, on {found.opened}. A second claim on the same "
            f"images would be chosen by the first. This is what it said:",
            *final_table(found).splitlines(),
            found.verdict,
        )
    if run.data["test_set"] != CLOSED and read_plan(run) is None:
        raise RunError(
            f"{run.folder}: the test set was already used for this run ({run.data['test_set']}), but its final.json "
            f"is gone. Put it back from a copy of the run."
        )


def _nothing(run: Run, *, as_json: bool) -> int:
    text = f"{run.folder}: the winner is the base itself, so there is nothing to claim. The test set stays closed."
    if as_json:
        print(json.dumps({"run": str(run.folder), "verdict": text, "claims": []}, indent=2))
    else:
        print(text)
    return 0


def _asked(run: Run, view: View, history: History, flags: Mapping[str, Any]) -> _Asked:
    """What is to be done; raises with all problems at once, and writes nothing."""
    problems = Problems()
    plan = _plan(run, flags, problems)
    workers = problems.whole("--workers", flags["workers"], run.settings.workers, most=100_000)
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
    settings = replace(run.settings, workers=workers, ray=flags["ray"] or run.settings.ray)
    same = recipe_from_values(dict(plan.recipe)) == recipe_from_values(run.recipe) and run.settings.fraction == "1"
    epoch = [
        outcome.seconds / (len(history.curves.get(key, ())) or settings.epochs)
        for key, outcome in history.outcomes.items()
        if isinstance(outcome, Score)
    ]
    info = describe_data(settings.dataset, settings.data_dir, settings.image_size)
    images = info.train_images + info.val_images
    longer = images / run.data["train_images"]
    return _Asked(
        run=run,
        part=part_of(replace(run, settings=settings), plan),
        plan=plan,
        networks=networks,
        trainings=trainings_of(run, plan, networks),
        # What seeds do to networks that are trained in another way is not known.
        spread=view.spread if same else Spread(),
        images=images,
        each=plan.epochs * longer * fmean(epoch) if epoch else 0.0,
    )


def _plan(run: Run, flags: Mapping[str, Any], problems: Problems) -> Plan:
    """What is asked for; of a final that was interrupted, what was asked for then."""
    kept = read_plan(run)
    recipe, name = recipe_from_values(run.recipe), run.settings.recipe
    with problems.caught():
        if flags["recipe"]:
            recipe, name = load_recipe(flags["recipe"]), str(flags["recipe"])
    seeds = problems.whole("--seeds", flags["seeds"], DEFAULT_SEEDS, most=MOST_SEEDS)
    if seeds < LEAST_SEEDS:
        problems.found.append(
            f"--seeds {seeds}: at least {LEAST_SEEDS} are needed. Fewer claim a gain that is not there in more than 5 "
            f"of 100 cases (7 with two seeds, 25 with one, where seeds differ much), and the test set opens only once."
        )
    epochs = problems.whole("--epochs", flags["epochs"], recipe.epochs, most=100_000)
    recipe = recipe.with_epochs(epochs) if epochs != recipe.epochs else recipe
    plan = Plan(
        seeds=seeds,
        control=bool(flags["control"]),
        recipe_name=name,
        recipe=recipe_to_values(recipe),
    )
    if kept is None:
        return plan
    wishes = {
        "--seeds": flags["seeds"] and plan.seeds != kept.seeds,
        "--control": plan.control and not kept.control,
        "--recipe": flags["recipe"] and plan.recipe_name != kept.recipe_name,
        "--epochs": flags["epochs"] and plan.epochs != kept.epochs,
    }
    if changed := [flag for flag, differs in wishes.items() if differs]:
        problems.found.append(
            f"{' and '.join(changed)}: a final of this run has begun, with --seeds {kept.seeds}, --epochs "
            f"{kept.epochs}, --recipe {kept.recipe_name} and {'the' if kept.control else 'no'} control. Go on "
            f"with it by `buildup final {run.folder}`, or remove {run.folder / 'final'} to begin anew."
        )
    return kept


def _carry_out(asked: _Asked, *, verbose: bool, as_json: bool) -> int:
    run, part = asked.run, asked.part
    with ExitStack() as stack:
        # The journal of the search, too: it holds the run, and takes the result in.
        journal = stack.enter_context(closing(open_journal(run)))
        write_plan(run, asked.plan)
        history = _train(asked, verbose=verbose)
        if failed := spared(history):
            raise SearchError(
                f"{len(failed)} of {len(asked.trainings)} trainings failed: "
                + "; ".join(f"{key}: {failure.reason.value}: {failure.summary}" for key, failure in failed.items())
                + f". The test set stays closed. Mend the cause, and `buildup final {run.folder}` tries these again."
            )
        # Before they are opened: should this process die now, they count as opened.
        opened = replace(run, data={**run.data, "test_set": "opened by buildup final"})
        save(opened)
        say("all trainings have ended; the test set is opened")
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
        journal.conclude(final_to_values(found))
        write_final(opened, found)
    keep_claim(opened)
    _show(opened, found, as_json=as_json)
    return 0


def _train(asked: _Asked, *, verbose: bool) -> History:
    part, trainings = asked.part, asked.trainings
    with ExitStack() as stack:
        journal = stack.enter_context(closing(open_journal(part)))
        history = tried_again(part, journal.history)
        left = [training for training in trainings if training.id not in history.outcomes]
        if not left:
            return history
        rounds = -(-len(left) // part.settings.workers)
        say(
            f"final of {asked.run.folder}: {len(left)} of {len(trainings)} trainings are left, {asked.plan.epochs} "
            f"epochs on all training images each, about {duration(rounds * asked.each)}"
        )
        names = {candidate.id: name for name, candidate in asked.networks.items()}

        def see(event: Event, left: int) -> None:
            if isinstance(event, Ended):
                training, outcome = event.training, event.record.outcome
                how = f"failed: {outcome.reason.value}  " if isinstance(outcome, Failure) else ""
                name = f"{names[training.candidate.id]}  seed {training.seed}"
                say(f"training   {name}  {how}{outcome.seconds:.1f} s  ({left} left)")

        workers = stack.enter_context(closing(start_workers(part, job_maker(part, whole=True), verbose=verbose)))
        return train_all(trainings, workers, journal, history, see)


def _device(run: Run) -> str:
    """Where this process scores: on the device of the trainings, where this machine has it."""
    try:
        return check_device(run.settings.device)
    except ResourceError:
        return check_device("auto")


def _show(run: Run, found: Final, *, as_json: bool) -> None:
    if as_json:
        print(json.dumps({"run": str(run.folder), **final_to_values(found)}, indent=2))
        return
    print(final_table(found))
    print()
    print(found.verdict)
