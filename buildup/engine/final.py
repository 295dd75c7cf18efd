"""`final`: train base and winner anew, open the test set once, and test whether the winner is better.

    RUN/final/plan.json    the settings, written before anything is trained
    RUN/final/study.db     the Optuna study of these trainings, separate from that of the search
    RUN/final/trainings/   one folder per training, as in a search
    RUN/final.json         the result

The trainings use as many images as those of the search, or all training images, and seeds that no search uses. The test
images are opened only after all of them have ended. Before, they are decoded to see whether they can be read, and no
network sees them.
"""

import json
import logging
import math
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, closing, suppress
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from functools import partial
from math import inf
from statistics import fmean

import numpy as np
import torch

from buildup.engine.export import keep_claim, load_trained
from buildup.engine.hardware import cluster_address
from buildup.engine.load_state import FINAL_FOLDER, FINAL_RESULT, PLAN, FinalPlan, read_final, read_plan, state_of
from buildup.engine.loop import train_all
from buildup.engine.problems import Problems
from buildup.engine.replay import View
from buildup.engine.setup import check_data, open_writer, start_workers
from buildup.errors import BuildupError, ResourceError, RunError, SearchError, command, counted
from buildup.files import write_atomic
from buildup.models.cost import cost
from buildup.report.text_table import final_table
from buildup.report.words import duration
from buildup.settings import FinalSettings
from buildup.statistics.final_test import LEAST_SEEDS, claim, mean_interval, no_claim
from buildup.statistics.paired_difference import Comparison, Pair
from buildup.store.outage import outlast
from buildup.store.run_record import RunRecord, check_extensions, save_record
from buildup.strategies.network_size import control_of
from buildup.training.data import check_test, describe_data, open_test
from buildup.training.execution import check_device
from buildup.training.recipe import load_recipe, recipe_from_values, recipe_to_values
from buildup.training.validation import evaluate_model
from buildup.trials.event import Event
from buildup.trials.final_result import Claim, Contender, Final, Part, final_to_values
from buildup.trials.history import History
from buildup.trials.objective import OBJECTIVES
from buildup.trials.outcome import Failure, Record, Score
from buildup.trials.training import Candidate, Training

log = logging.getLogger("buildup")

FINAL_SEEDS = 5
FRESH = 10_000
"""Offset of the seeds of a final from the first seed of the search, more than any search uses."""
CLOSED = "not opened"
NARROW = 70
"""Columns of a table in an error message."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Request:
    """A checked final."""

    run: RunRecord
    part: RunRecord
    """The trainings of the final as a run inside the run, with the same data and its own study and folder."""
    plan: FinalPlan
    networks: Mapping[Part, Candidate]
    trainings: tuple[Training, ...]
    earlier: tuple[Comparison, ...]
    """The comparisons of the dropped steps of the search, if its noise is that of the final."""
    images: int
    """The number of training images."""
    seconds: float
    """The expected seconds of one training."""


def run_final(run: RunRecord, settings: FinalSettings, *, verbose: bool = False) -> Final | None:
    """Train base and winner anew, open the test set once, and test whether the winner is better.

    After an interruption, the same call continues. The result is None if the winner is the base.
    """
    if found := read_final(run.folder):
        with suppress(BuildupError, OSError):  # it was done, unless the process died right there
            keep_claim(run)
        raise RunError(
            f"{run.folder}: the test set was already used for this run, on {found.opened}. A second claim on the same "
            f"images would be chosen by the first. This is the result:",
            *final_table(found, width=NARROW).splitlines(),
            found.verdict,
        )
    if run.data.test_set != CLOSED and read_plan(run) is None:
        raise RunError(
            f"{run.folder}: the test set was already used for this run ({run.data.test_set}), but its final.json "
            f"is gone. Put it back from a copy of the run."
        )
    view, history = state_of(run)
    if not view.finished:
        raise RunError(
            f"{run.folder}: the search has not ended, so there is no winner to make a claim of. "
            f"Go on with it by `{command('resume', run.folder)}`."
        )
    if view.best is view.candidates[0]:
        return None
    if doubt := view.climb and view.climb.warning(view.decisions):
        log.warning("warning: %s A final measures the gain, not its cause.", doubt)
    return _carry_out(_check(run, view, history, settings), verbose=verbose)


def _check(run: RunRecord, view: View, history: History, settings: FinalSettings) -> _Request:
    """The checked final. All problems are reported at once; nothing is written."""
    problems = Problems()
    plan = _plan(run, settings, problems)
    own = run.settings
    workers = problems.whole("--workers", settings.workers, own.workers)
    stall_timeout = problems.seconds("--stall-timeout", settings.stall_timeout) or own.stall_timeout
    problems.checked(None, check_data, run)
    problems.checked(None, check_test, own.dataset, own.data_dir)
    base, winner = view.candidates[0], view.best
    networks: dict[Part, Candidate] = {"base": base, "winner": winner}
    if plan.control:
        with problems.caught():
            networks["control"] = control_of(base, winner.network, lambda network: cost(network).params)
    problems.raise_any()
    recipe, same = recipe_from_values(dict(plan.recipe)), plan.fraction == "same"
    execution = run.execution if recipe.amp else replace(run.execution, precision="float32")
    part = replace(
        run,
        folder=run.folder / FINAL_FOLDER,
        owner=run.study_name,
        earlier=(),
        recipe=recipe,
        settings=replace(
            own,
            workers=workers,
            ray=cluster_address(settings.ray, own.ray),
            stall_timeout=stall_timeout,
            fraction=own.fraction if same else "1",
            epochs=plan.epochs,
            seeds=plan.seeds,
            execution=execution.words,
        ),
    )
    epoch_seconds = history.epoch_seconds(own.epochs).values()
    info = describe_data(own.dataset, own.data_dir, own.image_size)
    images = run.data.train_images if same else info.train_images + info.val_images
    each = plan.epochs * images / run.data.train_images
    seeds = range(own.seed + FRESH, own.seed + FRESH + plan.seeds)
    return _Request(
        run=run,
        part=part,
        plan=plan,
        networks=networks,
        trainings=tuple(Training(candidate=one, seed=seed) for seed in seeds for one in networks.values()),
        # The noise is unknown for another recipe or another share of the images.
        earlier=view.dropped if recipe == run.recipe and same else (),
        images=images,
        seconds=each * fmean(epoch_seconds) if epoch_seconds else 0.0,
    )


def _plan(run: RunRecord, settings: FinalSettings, problems: Problems) -> FinalPlan:
    """The settings that were asked for. An interrupted final keeps its own, and refuses others."""
    kept = read_plan(run)
    recipe, name = run.recipe, str(settings.recipe or run.recipe.name)
    if settings.recipe:
        recipe = problems.checked(recipe, load_recipe, settings.recipe)
    seeds = problems.whole("--seeds", settings.seeds, FINAL_SEEDS)
    if seeds < LEAST_SEEDS:
        problems.found.append(
            f"--seeds {seeds}: at least {LEAST_SEEDS} are needed. Fewer say so little about their own noise that "
            "hardly any gain could be proven, and the test set opens only once."
        )
    epochs = problems.whole("--epochs", settings.epochs, recipe.epochs)
    recipe = recipe.with_epochs(epochs) if epochs != recipe.epochs else recipe
    control, values = bool(settings.control), recipe_to_values(recipe)
    fraction = problems.choice("fraction of a final", settings.fraction, "same", ("same", "all"))
    plan = FinalPlan(seeds=seeds, control=control, recipe_name=name, recipe=values, fraction=fraction)
    if kept is None:
        return plan
    differences = {
        "--seeds": settings.seeds is not None and plan.seeds != kept.seeds,
        "--control": plan.control and not kept.control,
        "--fraction": settings.fraction != "same" and plan.fraction != kept.fraction,
        "--recipe": settings.recipe and plan.recipe_name != kept.recipe_name,
        "--epochs": settings.epochs is not None and plan.epochs != kept.epochs,
    }
    if changed := [flag for flag, differs in differences.items() if differs]:
        anew = f", or remove {run.folder / FINAL_FOLDER} to begin anew" if run.data.test_set == CLOSED else ""
        problems.found.append(
            f"{' and '.join(changed)}: a final of this run has begun, with --seeds {kept.seeds}, --epochs "
            f"{kept.epochs}, --recipe {kept.recipe_name} and {'the' if kept.control else 'no'} control. Go on "
            f"with it by `{command('final', run.folder)}`{anew}."
        )
    return kept


def _carry_out(request: _Request, *, verbose: bool) -> Final:
    run, part, trainings = request.run, request.part, request.trainings
    with ExitStack() as stack:
        # The writer of the search holds the lock of the run, and stores the result in its study.
        writer = stack.enter_context(closing(open_writer(run)))
        check_extensions(run.folder, len(run.earlier))
        part.trainings.mkdir(parents=True, exist_ok=True)
        write_atomic(part.folder / PLAN, json.dumps(asdict(request.plan), indent=2).encode())
        history = _train(request, verbose=verbose)
        if failed := history.avoidable_failures():
            raise SearchError(
                f"{len(failed)} of {len(trainings)} trainings failed: "
                + "; ".join(f"{key}: {failure.reason.value}: {failure.summary}" for key, failure in failed.items())
                + f". The test set stays closed. Mend the cause, and `{command('final', run.folder)}` tries them again."
            )
        # Recorded first: if this process dies while it reads the test images, they count as used.
        opened = replace(run, data=replace(run.data, test_set="opened by buildup final"))
        save_record(opened)
        log.info("all trainings have ended; the test set is opened")
        scores = _test_scores(part, trainings, history)
        failures = {key: one.reason.value for key, one in history.outcomes.items() if isinstance(one, Failure)}
        final = Final(
            contenders=tuple(_contender(request, part, failures, scores) for part in request.networks),
            claims=tuple(_claim(request, part, failures, scores) for part in request.networks if part != "winner"),
            objective=run.settings.objective,
            seeds=tuple(dict.fromkeys(training.seed for training in trainings)),
            recipe=request.plan.recipe_name,
            epochs=request.plan.epochs,
            train_images=request.images,
            fraction=request.plan.fraction,
            test_images=max((score.images for score in scores.values()), default=0),
            opened=datetime.now(UTC).isoformat(timespec="seconds"),
        )
        writer.conclude(final_to_values(final))
        write_atomic(run.folder / FINAL_RESULT, json.dumps(final_to_values(final), indent=2).encode())
    keep_claim(opened)
    return final


def _train(request: _Request, *, verbose: bool) -> History:
    part, trainings = request.part, request.trainings
    with ExitStack() as stack:
        writer = stack.enter_context(closing(open_writer(part)))
        if failed := writer.history.avoidable_failures():
            writer.set_aside(dict.fromkeys(failed, math.inf))
        history = writer.history
        left = [training for training in trainings if training.id not in history.outcomes]
        if not left:
            return history
        time = duration(-(-len(left) // part.settings.workers) * request.seconds)
        log.info(
            f"final of {request.run.folder}: {len(left)} of {counted(len(trainings), 'training')} left, "
            f"{counted(request.plan.epochs, 'epoch')} on {request.images:,} images each, about {time}"
        )
        names = {candidate.id: name for name, candidate in request.networks.items()}

        def see(event: Event, left: int) -> None:
            if isinstance(event.update, Record):
                training, outcome = event.training, event.update.outcome
                how = f"failed: {outcome.reason.value}  " if isinstance(outcome, Failure) else ""
                name = f"{names[training.candidate.id]}  seed {training.seed}"
                log.info(f"training   {name}  {how}{outcome.seconds:.1f} s  ({left} left)")

        whole = request.plan.fraction == "all"
        workers = stack.enter_context(closing(start_workers(part, verbose=verbose, whole=whole)))
        return train_all(trainings, workers, writer, history, see)


def _test_scores(part: RunRecord, trainings: Sequence[Training], history: History) -> dict[str, Score]:
    """Open the test images, and score each trained network on them, image by image."""
    settings, recipe = part.settings, part.recipe
    try:
        device = check_device(settings.device)
    except ResourceError:  # the trainings ran on a cluster
        device = check_device("auto")
    test = open_test(settings.dataset, settings.data_dir, settings.image_size, recipe, part.data.streamed)
    scores = {}
    for training in trainings:
        if isinstance(history.outcomes[training.id], Failure):
            continue
        folder = part.trainings / training.id
        model = outlast(part.remote_trainings, partial(load_trained, training.candidate.network, folder))
        model = model.to(torch.device(device))
        found = evaluate_model(model, test, recipe, threads=settings.threads)
        correct = np.packbits(found.correct.numpy()).tobytes()
        write_atomic(folder / "test.bits", correct)
        scores[training.id] = Score(
            accuracy=found.accuracy,
            metrics=found.values,
            correct=correct,
            losses=found.losses.numpy().astype("<f2").tobytes(),
            images=len(test.labels),
        )
    return scores


def _contender(request: _Request, part: Part, failures: Mapping[str, str], scores: Mapping[str, Score]) -> Contender:
    candidate, objective = request.networks[part], OBJECTIVES[request.run.settings.objective]
    own = [training for training in request.trainings if training.candidate.id == candidate.id]
    costs = cost(candidate.network)
    values = {str(training.seed): objective.value(scores[training.id]) for training in own if training.id in scores}
    return Contender(
        part=part,
        layout=candidate.layout,
        fingerprint=candidate.id,
        params=costs.params,
        macs=costs.macs,
        scores=values,
        ci=mean_interval(list(values.values()), 100.0 if objective.unit == "points" else inf),
        failures={str(training.seed): failures[training.id] for training in own if training.id not in scores},
    )


def _claim(request: _Request, against: Part, failures: Mapping[str, str], scores: Mapping[str, Score]) -> Claim:
    """The claim on the gain of the winner over one other network, from the seeds that both have scores of."""
    winner, other = request.networks["winner"], request.networks[against]
    names = {winner.id: "winner", other.id: against}
    failed = [
        f"a training of the {names[training.candidate.id]} failed ({failures[training.id]})"
        for training in request.trainings
        if training.candidate.id in names and training.id not in scores
    ]
    by_seed: dict[int, dict[str, Score]] = {}
    for training in request.trainings:
        if training.id in scores:
            by_seed.setdefault(training.seed, {})[training.candidate.id] = scores[training.id]
    pairs = [
        Pair(candidate=row[winner.id], parent=row[other.id]) for row in by_seed.values() if row.keys() >= names.keys()
    ]
    if not pairs:
        return no_claim(against, failed)
    return claim(
        pairs,
        request.earlier,
        len(request.networks) - 1,
        objective=OBJECTIVES[request.run.settings.objective],
        against=against,
        failed=failed,
    )
