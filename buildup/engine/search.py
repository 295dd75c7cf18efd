"""`search` and `resume`: create or open a run, and run the loop to its end."""

import logging
import time
from collections.abc import Callable
from contextlib import ExitStack, closing, suppress
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

from buildup.engine.clean import BudgetObserver, remove_losers, remove_sessions
from buildup.engine.export import keep_winner
from buildup.engine.extend import RETRIED, begin, extension, with_retries
from buildup.engine.hardware import cluster_address
from buildup.engine.load_state import check_splits, replay_of, state_of
from buildup.engine.loop import run_loop
from buildup.engine.problems import Problems
from buildup.engine.progress import CallbackObserver, OnEvent, display
from buildup.engine.replay import Replay, View
from buildup.engine.request import Request, cautions, disk_problems, resolve
from buildup.engine.setup import check_data, create_writer, open_writer, rebuild_study, start_workers
from buildup.errors import BuildupError, SearchError, WeakBase, command, counted
from buildup.execution.counters import verdict_counter
from buildup.execution.evaluator import Evaluator
from buildup.execution.ray_tune import RayEvaluator
from buildup.execution.simulated import SimulatedEvaluator
from buildup.report.trackers import Tracking, check_trackers
from buildup.report.words import duration
from buildup.settings import ResumeSettings, SearchSettings
from buildup.store.outage import outlast
from buildup.store.reuse import ReusableRuns
from buildup.store.run_record import (
    DataRecord,
    RunRecord,
    check_extensions,
    create_run_dir,
    environment,
    save_record,
    save_status,
    with_status,
)
from buildup.store.study_writer import StudyWriter
from buildup.strategies.moves import added_blocks, left_out
from buildup.strategies.registered import STRATEGIES
from buildup.training.data import check_images, open_data, open_first
from buildup.training.dataset import Dataset, parse_fraction
from buildup.training.health import check_base
from buildup.training.image_files import shortened
from buildup.trials.history import History
from buildup.trials.outcome import Failure
from buildup.trials.training import training_id

log = logging.getLogger("buildup")


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchResult:
    """The state of a search when it ended or was stopped by a limit."""

    record: RunRecord
    view: View
    history: History


def run_search(
    settings: SearchSettings,
    on_event: OnEvent | None = None,
    *,
    verbose: bool = False,
    recorded: RunRecord | None = None,
) -> SearchResult:
    """Run a search to its end, or to its limit.

    Args:
        settings: What is asked for.
        on_event: Is told of all events and decisions.
        verbose: Whether Ray and the workers may print.
        recorded: A run that is repeated. Its recipe and space are taken as they were, whatever their files say now.

    Raises:
        RequestError: The settings are wrong; nothing was written.
        SearchError: The search failed, or its base has not learned. `resume` continues after the cause is fixed.
    """
    request = resolve(settings, recorded=recorded)
    record = _new_record(request, recorded.data.streamed if recorded else None)
    # The workers start first, so that nothing is written if they cannot.
    with ExitStack() as stack:
        evaluator = stack.enter_context(closing(_workers(record, verbose=verbose)))
        create_run_dir(record)
        writer = stack.enter_context(closing(create_writer(record)))
        return _follow(record, writer, evaluator, on_event)


def resume_search(
    record: RunRecord, changes: ResumeSettings, on_event: OnEvent | None = None, *, verbose: bool = False
) -> SearchResult:
    """Continue a run, or extend it with other settings. It raises what `run_search` does."""
    if changes.rebuild:
        _changed(record, changes)  # raises what is wrong with them before anything is written
        rebuild_study(record)
    failed = state_of(record)[1].avoidable_failures() if changes.retry_failed else {}
    if changes.retry_failed and not failed:
        log.info("%s: no training of this run failed for a reason that another try may avoid.", record.folder)
        changes = replace(changes, retry_failed=False)
    before = record
    record, is_extended = _changed(record, changes)
    if changes.retry_failed:
        record = with_retries(record, before, failed)
    if is_extended:
        begin(record)
    remove_sessions(record.folder)
    with ExitStack() as stack:
        writer = stack.enter_context(closing(open_writer(record)))
        check_extensions(record.folder, len(record.earlier))
        for extended in record.earlier:  # again, if one was stopped right after it began
            if extended.get("epochs") == record.settings.epochs:
                writer.set_aside(extended.get(RETRIED, {}))
        check_splits(record, writer.history)
        view = replay_of(record).view(writer.history)
        if record.status == "finished" and view.ended and len(view.decisions) == len(writer.history.decisions):
            log.info("%s: this run is finished; nothing is left to do.", record.folder)
            return SearchResult(record=record, view=view, history=writer.history)
        evaluator: Evaluator
        if view.ended:  # only decisions are left to record
            evaluator = SimulatedEvaluator(table={})
        else:
            check_data(record)
            evaluator = _workers(record, verbose=verbose)
        stack.enter_context(closing(evaluator))
        was_done = record.status == "finished" and len(view.decisions) == len(writer.history.decisions)
        return _follow(save_status(record, "running", ""), writer, evaluator, on_event, exported=was_done)


def _new_record(request: Request, streamed: bool | None) -> RunRecord:
    settings = request.settings
    place = settings.dataset, settings.data_dir, settings.image_size
    if streamed is None:
        data, streamed = open_first(*place, request.recipe)
    else:
        data = open_data(*place, request.recipe, streamed)
    wrong = check_images(settings.dataset, settings.data_dir, decoded=isinstance(data, Dataset))
    return RunRecord(
        folder=request.folder,
        settings=settings,
        space=request.space,
        recipe=request.recipe.resolved(train_images=request.data.train_images),
        data=DataRecord(
            name=settings.dataset,
            hash=data.hash,
            train_images=request.data.train_images,
            val_images=request.data.val_images,
            num_classes=data.num_classes,
            mean=tuple(data.mean),
            std=tuple(data.std),
            image_size=data.image_size,
            channels=data.channels,
            streamed=streamed,
            class_names=data.class_names,
            notes=(*request.data.notes, *shortened(wrong)),
        ),
        network=request.network,
        environment=environment(
            settings.device, {str(speed.execution): f"{1 / speed.train:.1f} images/s" for speed in request.speeds}
        ),
    )


def _changed(record: RunRecord, changes: ResumeSettings) -> tuple[RunRecord, bool]:
    problems = Problems()
    own = record.settings
    values: dict[str, Any] = {
        "max_trials": problems.whole("--max-trials", changes.max_trials, 0) or None,
        "time_budget": problems.duration("--time-budget", changes.time_budget),
        "disk_budget": problems.size("--disk-budget", changes.disk_budget) or own.disk_budget,
        "workers": problems.whole("--workers", changes.workers, own.workers),
        "ray": cluster_address(changes.ray, own.ray),
        "stall_timeout": problems.seconds("--stall-timeout", changes.stall_timeout) or own.stall_timeout,
        "allow_weak_base": changes.allow_weak_base or own.allow_weak_base,
        "track": changes.track or own.track,
    }
    problems.checked(None, check_trackers, changes.track)
    problems.found += disk_problems(values["disk_budget"], own.storage_path, record.network)
    extended = extension(record, changes, problems)
    problems.raise_any()
    record = extended or record
    return replace(record, settings=replace(record.settings, **values)), extended is not None


def _workers(record: RunRecord, *, verbose: bool) -> RayEvaluator:
    fetch = None
    if record.settings.reuse:
        library = ReusableRuns(record, log.warning)
        fetch = library.fetch
        sources = ", ".join(str(source.folder) for source in library.sources) or "no run here"
        log.info("reuse: %s trained as this run does", sources)
        for other in library.others:
            log.info("       %s", other)
    return start_workers(record, verbose=verbose, fetch_reusable=fetch)


def _follow(
    record: RunRecord,
    writer: StudyWriter,
    evaluator: Evaluator,
    on_event: OnEvent | None,
    *,
    exported: bool = False,
) -> SearchResult:
    """Run the loop and end the run. One that was `exported` had ended, but for checks of its base."""
    replay = replay_of(record)
    if changed := added_blocks(record.network, record.space):
        log.info("%s", changed)
    limit = _limit(record, replay)
    log.info("run %s: %s, %s", record.folder, record.title, counted(record.settings.workers, "worker"))
    warnings, budget = _warnings(record), BudgetObserver(run=record)
    try:
        with ExitStack() as stack:
            # The display comes first, so that it shows everything even if a callback raises.
            observers = [stack.enter_context(display(replay, record))]
            count, before = verdict_counter(record.study_name), len(writer.history.decisions)
            if on_event:
                observers.append(CallbackObserver(on_event=on_event, decided=before))
            observers += [budget, CallbackObserver(on_event=count, decided=before)]
            if record.settings.track:
                tracking = Tracking(record.settings.track, record.folder, _tracked(record))
                stack.enter_context(closing(tracking))
                observers.append(CallbackObserver(on_event=tracking, decided=before))
            inspect = partial(_inspect, record, replay, warnings)
            view, history = run_loop(replay, evaluator, writer, writer.history, observers, inspect, limit)
    except WeakBase as weak:
        save_status(record, "stopped", str(weak), warnings)
        raise
    except KeyboardInterrupt:
        save_status(record, "stopped", "interrupted", warnings)
        raise
    except BuildupError as error:
        with suppress(OSError):  # a full disk may be the very error
            save_status(record, "failed", str(error), warnings)
        # The request was checked before, so this is a failure of the search, even if it is a RequestError.
        raise error if isinstance(error, SearchError) else SearchError(str(error)) from error
    reached = None if view.ended else f"{limit(history)} was reached"
    if not view.finished:
        record = save_status(record, "stopped", str(reached), warnings)
        return SearchResult(record=record, view=view, history=history)
    evaluator.close()
    writer.finish(history)
    finished = with_status(record, "finished", "the rule has nothing left to try", warnings)
    if exported:
        save_record(finished)
        return SearchResult(record=finished, view=view, history=history)
    return _conclude(finished, view, history, budget)


def _conclude(record: RunRecord, view: View, history: History, budget: BudgetObserver) -> SearchResult:
    """Export the winner, remove the weights that need not stay, and write that the search has ended."""
    try:
        has_weights = keep_winner(record, view, history)
    except (BuildupError, OSError) as error:
        with suppress(OSError):
            save_status(record, "failed", f"no export: {error}")
        again = command("resume", record.folder)
        raise SearchError(
            f"the search has ended, but its network can't be exported: {error}\n{again} tries it again."
        ) from error
    # Where the winner is gone, the weights of its rivals are all that is left.
    if has_weights and record.settings.keep_weights == "winners":
        outlast(record.remote_trainings, partial(remove_losers, record, view))
    budget.keep(view, stopped=True)
    save_record(record)
    return SearchResult(record=record, view=view, history=history)


def _tracked(record: RunRecord) -> dict[str, Any]:
    """The settings that a tracker is told. It may be on another machine, so without addresses that hold passwords."""
    values = {name: value for name, value in asdict(record.settings).items() if value not in (None, ())}
    return {name: value for name, value in values.items() if name not in {"storage", "storage_path", "ray"}}


def _warnings(record: RunRecord) -> list[str]:
    warnings = []
    if record.settings.judge == "point":
        warnings.append("judge point: the larger mean wins, so chance is not ruled out by any verdict of this run.")
    if unused := STRATEGIES[record.settings.strategy].unused(record.space):
        warnings.append(unused)
    elif record.space.tune:
        warnings += [f"{problem}." for problem in left_out(record.network, record.space)]
    for warning in cautions(record):
        warnings.append(warning)
        log.warning("warning: %s", warning)
    return warnings


def _inspect(record: RunRecord, replay: Replay, warnings: list[str], history: History) -> None:
    """Raise `WeakBase` if the base has not learned: any edit of it would look good."""
    settings = record.settings
    seeds = range(replay.first_seed, replay.first_seed + replay.seeds)
    ids = [training_id(replay.base.id, seed) for seed in seeds]
    failures = [outcome for key in ids if isinstance(outcome := history.outcomes[key], Failure)]
    problems = [f"A training of it failed ({failure.reason}): {failure.summary}" for failure in failures]
    problems += check_base(
        [history.curves.get(key, ()) for key in ids],
        num_classes=record.data.num_classes,
        images=record.data.val_images,
        expected=record.recipe.expectation(record.network.title, settings.dataset, parse_fraction(settings.fraction)),
    )
    if not problems:
        return
    message = f"the base {record.settings.base} has not learned: {' '.join(problems)}"
    if not settings.allow_weak_base:
        raise WeakBase(
            f"{message} Every change on top of it would look good, so the search stops here. Train it longer "
            f"(--epochs, --fraction), or go on all the same: {command('resume', record.folder, '--allow-weak-base')}"
        )
    warnings.append(f"weak base: {message}")
    log.warning("warning: %s", message)


def _limit(record: RunRecord, replay: Replay) -> Callable[[History], str | None]:
    """Makes a function that returns the reason to stop, or None.

    Trainings ahead of verdicts do not count. Verdicts that follow from them at once are taken before a search stops.
    """
    began = time.monotonic()
    seen, asked_for = History(), 0

    def limit(history: History) -> str | None:
        nonlocal seen, asked_for
        most, budget = record.settings.max_trials, record.settings.time_budget
        if most is not None and replay.notices(seen, history):
            seen, asked_for = history, len(replay.required_ids(replay.view(history)) & history.outcomes.keys())
        if most is not None and asked_for >= most:
            return f"--max-trials {most}"
        if budget is not None and time.monotonic() - began >= budget:
            return f"--time-budget {duration(budget)}"
        return None

    return limit
