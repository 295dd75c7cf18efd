"""The wiring of `search` and `resume`: a request in, a run with its winner out."""

import json
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, closing, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from buildup.cli.progress import say, watcher
from buildup.cli.signals import interruptible
from buildup.engine.export import keep_winner
from buildup.engine.extend import begin, extension
from buildup.engine.load_state import procedure
from buildup.engine.loop import run as run_loop
from buildup.engine.problems import Problems
from buildup.engine.replay import Replay, View
from buildup.engine.request import Request, resolve
from buildup.engine.setup import check_data, create_journal, job_maker, open_journal, start_workers
from buildup.errors import BuildupError, SearchError, WeakBase
from buildup.execution.evaluator import Evaluator
from buildup.execution.ray_tune import RayEvaluator
from buildup.execution.simulated import SimulatedEvaluator
from buildup.report.text_table import decisions_table
from buildup.report.words import duration
from buildup.store.reuse import ReusableRuns
from buildup.store.run_dir import Run, create, environment, mark, marked, open_run, save
from buildup.store.settings import parse_duration
from buildup.store.study_writer import Journal
from buildup.strategies.by_name import STRATEGIES
from buildup.strategies.moves import left_out
from buildup.training.data import open_data, parse_fraction
from buildup.training.health import check_base, unsuited
from buildup.training.recipe import recipe_from_values, recipe_to_values
from buildup.trials.history import History
from buildup.trials.outcome import Failure
from buildup.trials.training import training_id


def search(flags: Mapping[str, Any]) -> int:
    """Run a search from its request to its end."""
    request = resolve(flags)

    def work() -> int:
        run = _new_run(request)
        # The workers come first: what they lack is said before anything is written.
        with ExitStack() as stack:
            evaluator = stack.enter_context(closing(_workers(run, flags)))
            create(run)
            journal = stack.enter_context(closing(create_journal(run)))
            return _drive(run, journal, evaluator, as_json=bool(flags["json"]))

    return _resumable(request.folder, work)


def resume(flags: Mapping[str, Any]) -> int:
    """Go on with a run, or take it further."""
    run, is_extended = _with_flags(open_run(flags["run"]), flags)

    def work() -> int:
        if is_extended:
            begin(run)
        with ExitStack() as stack:
            journal = stack.enter_context(closing(open_journal(run)))
            view = procedure(run).view(journal.history)
            as_json = bool(flags["json"])
            if run.status == "finished" and len(view.decisions) == len(journal.history.decisions):
                say(f"{run.folder}: this run is finished; nothing is left to do.")
                return _summary(run, view, journal.history, as_json=as_json)
            if view.finished:  # but for verdicts that are still to be written down
                evaluator: Evaluator = SimulatedEvaluator(table={})
            else:
                check_data(run)
                evaluator = _workers(run, flags)
            stack.enter_context(closing(evaluator))
            return _drive(mark(run, "running", ""), journal, evaluator, as_json=as_json)

    return _resumable(run.folder, work)


def _resumable(folder: Path, work: Callable[[], int]) -> int:
    """Do the work; when it is interrupted, it ends in order and says how to go on."""
    try:
        with interruptible():
            return work()
    except KeyboardInterrupt:
        started = (folder / "run.yaml").exists()
        say(f"Interrupted. Go on with: buildup resume {folder}" if started else "Interrupted; nothing was written.")
        return 130


def _workers(run: Run, flags: Mapping[str, Any]) -> RayEvaluator:
    fetch_reusable = None
    if run.settings.reuse:
        library = ReusableRuns(run, say)
        fetch_reusable = library.fetch
        sources = ", ".join(str(source_run.folder) for source_run in library.sources) or "no run here"
        say(f"reuse: {sources} trained as this run does" + "".join(f"\n       {other}" for other in library.others))
    return start_workers(run, job_maker(run), verbose=bool(flags["verbose"]), fetch_reusable=fetch_reusable)


def _new_run(request: Request) -> Run:
    settings = request.settings
    data = open_data(settings.dataset, settings.data_dir, settings.image_size, request.recipe)
    return Run(
        folder=request.folder,
        settings=settings,
        space=request.space,
        recipe=recipe_to_values(request.recipe.resolved(train_images=request.data.train_images)),
        data={
            "name": settings.dataset,
            "hash": data.hash,
            "train_images": request.data.train_images,
            "val_images": request.data.val_images,
            "num_classes": data.num_classes,
            "mean": list(data.mean),
            "std": list(data.std),
            "image_size": data.image_size,
            "channels": data.channels,
            "split_seed": settings.seed,
            "test_set": "not opened",
        },
        network=request.network,
        environment={
            **environment(settings.device),
            "measured": {str(speed.execution): f"{1 / speed.train:.1f} images/s" for speed in request.speeds},
        },
    )


def _with_flags(run: Run, flags: Mapping[str, Any]) -> tuple[Run, bool]:
    """A resumed run keeps its settings, but for limits and for how many workers are where.

    With it, whether it is extended: then its seeds or its space are others, too.
    """
    problems = Problems()
    changes: dict[str, Any] = {
        "max_trials": problems.whole("--max-trials", flags["max_trials"], 0) or None,
        "time_budget": problems.parsed("--time-budget", parse_duration, flags["time_budget"]),
        "workers": problems.whole("--workers", flags["workers"], run.settings.workers, most=100_000),
    }
    extended = extension(run, flags, problems)
    problems.raise_any()
    run = extended or run
    if flags["ray"]:
        changes["ray"] = flags["ray"]
    if flags["allow_weak_base"]:
        changes["allow_weak_base"] = True
    return replace(run, settings=replace(run.settings, **changes)), extended is not None


def _drive(run: Run, journal: Journal, evaluator: Evaluator, *, as_json: bool) -> int:
    """Follow the loop to its end, and leave the run in the state that it came to."""
    steps = procedure(run)
    limit = _limit(run, steps)
    warnings: list[str] = []
    say(f"run {run.folder}: {run.settings.base} on {run.settings.dataset}, {run.settings.workers} workers")
    if run.settings.judge == "point":
        warnings.append("judge point: the larger mean wins, so chance is not ruled out by any verdict of this run.")
    if left_unused := STRATEGIES[run.settings.strategy].unused(run.space):
        warnings.append(left_unused)
    elif run.space.tune:
        warnings += [f"{problem}." for problem in left_out(run.network, run.space)]
    if misfit := unsuited(run.network, recipe_from_values(run.recipe)):
        warnings.append(misfit)
        say(f"warning: {misfit}")
    try:
        with watcher(steps, run.settings.epochs, run.settings.workers) as interim:
            inspect = _inspector(run, steps, warnings)
            view, history = run_loop(steps, evaluator, journal, interim, journal.history, inspect, limit)
    except WeakBase as weak:
        mark(run, "stopped", str(weak), warnings)
        raise
    except KeyboardInterrupt:
        mark(run, "stopped", "interrupted", warnings)
        raise
    except BuildupError as error:
        with suppress(OSError):  # a full disk may be the very error
            mark(run, "failed", str(error), warnings)
        # Whatever it is, such as a damaged file, it is not the request that was wrong.
        raise error if isinstance(error, SearchError) else SearchError(str(error)) from error
    if not view.finished:
        run = mark(run, "stopped", f"{limit(history)} was reached", warnings)
        say(f"Stopped: {run.reason}. Go on with: buildup resume {run.folder}")
        if as_json:
            print(json.dumps(result(run, view, history), indent=2))
        return 0
    evaluator.close()
    return _finish(run, journal, view, history, warnings, as_json=as_json)


def _finish(run: Run, journal: Journal, view: View, history: History, warnings: Sequence[str], *, as_json: bool) -> int:
    journal.finish(history)
    ended = marked(run, "finished", "the rule has nothing left to try", warnings)
    keep_winner(ended, view, history)
    save(ended)
    return _summary(ended, view, history, as_json=as_json)


def _inspector(run: Run, steps: Replay, warnings: list[str]) -> Callable[[History], None]:
    """Is the base worth building on? Every change of a base that did not learn looks good."""

    def inspect(history: History) -> None:
        seeds = range(steps.first_seed, steps.first_seed + steps.seeds)
        ids = [training_id(steps.base.id, seed) for seed in seeds]
        failures = [outcome for key in ids if isinstance(outcome := history.outcomes[key], Failure)]
        problems = [f"A training of it failed ({failure.reason}): {failure.summary}" for failure in failures]
        problems += check_base(
            [history.curves.get(key, ()) for key in ids],
            num_classes=run.data["num_classes"],
            images=run.data["val_images"],
            expected=recipe_from_values(run.recipe).expectation(
                run.settings.base, run.settings.dataset, parse_fraction(run.settings.fraction)
            ),
        )
        if not problems:
            return
        message = f"the base {run.settings.base} has not learned: {' '.join(problems)}"
        if not run.settings.allow_weak_base:
            raise WeakBase(
                f"{message} Every change on top of it would look good, so the search stops here. Train it longer "
                f"(--epochs, --fraction), or go on all the same: buildup resume {run.folder} --allow-weak-base"
            )
        warnings.append(f"weak base: {message}")
        say(f"warning: {message}")

    return inspect


def _limit(run: Run, steps: Replay) -> Callable[[History], str | None]:
    """Why a search that is not finished should stop; None while it may go on.

    Only trainings that a verdict asked for count, so that workers that look ahead never take a search less far.
    """
    began = time.monotonic()
    seen, asked_for = History(), 0

    def limit(history: History) -> str | None:
        nonlocal seen, asked_for
        most, budget = run.settings.max_trials, run.settings.time_budget
        if most is not None and steps.notices(seen, history):
            seen, asked_for = history, len(steps.required_ids(steps.view(history)) & history.outcomes.keys())
        if most is not None and asked_for >= most:
            return f"--max-trials {most}"
        if budget is not None and time.monotonic() - began >= budget:
            return f"--time-budget {duration(budget)}"
        return None

    return limit


def _summary(run: Run, view: View, history: History, *, as_json: bool) -> int:
    if as_json:
        print(json.dumps(result(run, view, history), indent=2))
        return 0
    print(decisions_table(view.decisions))
    print()
    same = "No replacement was kept: the base stays as it is." if view.best is view.candidates[0] else ""
    print(f"{run.settings.base} became {view.best.layout}. {same}".strip())
    for warning in run.warnings:
        print(f"warning: {warning}")
    print(
        f"\nNext:\n"
        f"  {run.folder / 'report.html'}  the evidence for each decision, in a browser\n"
        f"  {run.folder / 'export'}  the network as a timm model; its README.md says how to load it\n"
        f"  buildup dashboard {run.folder}  curves and timeline\n"
        f"  buildup export {run.folder} --to DIR  the same network, or another candidate, elsewhere"
    )
    return 0


def result(run: Run, view: View, history: History) -> dict[str, Any]:
    """What a run came to, as values."""
    return {
        "run": str(run.folder),
        "status": run.status,
        "reason": run.reason,
        "base": run.settings.base,
        "dataset": run.settings.dataset,
        "layout": view.best.layout,
        "fingerprint": view.best.id,
        "trainings": len(history.outcomes),
        "verdicts": [
            {"step": decision.step, "layout": decision.layout, "verdict": decision.verdict, "reason": decision.reason}
            for decision in view.decisions
        ],
        "warnings": list(run.warnings),
    }
