"""The commands that search: `search`, `resume`, `plan`, `simulate` and `status`."""

import sys
import time
from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from buildup.cli.output import (
    AsJson,
    Details,
    Flags,
    RunName,
    Verbose,
    answer,
    coloured,
    interruptible,
    reading,
    table_width,
)
from buildup.cli.settings_file import From
from buildup.errors import RequestError, command, counted
from buildup.settings import ResumeSettings, SearchSettings, SimulateSettings

if TYPE_CHECKING:
    from buildup.engine.search import SearchResult


Anew = Annotated[bool, Parameter(help="Measure the speed of the base even if it is known from an earlier plan.")]
Watch = Annotated[bool, Parameter(name="--watch", help="Follow the run until it ends.")]
PAUSE = 5.0
"""Seconds between two looks at a run."""


def search(
    settings: Annotated[SearchSettings, Flags] = SearchSettings(),
    *,
    from_: From = None,
    verbose: Verbose = False,
    as_json: AsJson = False,
) -> int:
    """Search where attention helps, to the end.

    Example: buildup search --base resnet6 --dataset cued-digits --recipe quick-plain --epochs 4 --seeds 2 --run demo
    """
    reading(settings.base)
    from buildup.engine.request import folder_for
    from buildup.engine.search import run_search

    folder = folder_for(settings)
    return _finish(folder, lambda: run_search(settings, verbose=verbose), verbose=verbose, as_json=as_json)


def resume(
    run: RunName,
    /,
    settings: Annotated[ResumeSettings, Flags] = ResumeSettings(),
    *,
    verbose: Verbose = False,
    as_json: AsJson = False,
) -> int:
    """Go on with a run after any stop, kill or crash, or take it further.

    Example: buildup resume demo --seeds 6
    """
    from buildup.store.run_record import open_record

    record = open_record(run)
    reading(str(record.folder))
    from buildup.engine.search import resume_search

    return _finish(
        record.folder, lambda: resume_search(record, settings, verbose=verbose), verbose=verbose, as_json=as_json
    )


def _finish(folder: Path, work: Callable[[], "SearchResult"], *, verbose: bool, as_json: bool) -> int:
    from buildup.engine.summaries import result_to_values, summary

    def message() -> str:
        started = (folder / "run.yaml").exists()
        return (
            f"Interrupted. Go on with: {command('resume', folder)}" if started else "Interrupted; nothing was written."
        )

    # Ray prints on stdout whatever its settings; the result may have to be the only thing there.
    with interruptible(message), redirect_stdout(sys.stderr):
        result = work()
    return answer(summary(result, width=table_width(verbose=verbose)), result_to_values(result), as_json=as_json)


def plan(
    settings: Annotated[SearchSettings, Flags] = SearchSettings(),
    *,
    from_: From = None,
    anew: Anew = False,
    verbose: Details = False,
    as_json: AsJson = False,
) -> int:
    """Say what a search would train and cost. Nothing is trained but a few timing steps.

    Example: buildup plan --base resnet50 --dataset cifar100 --data-dir data
    """
    reading(settings.base)
    from buildup.engine.plan import make_plan, plan_to_values
    from buildup.engine.summaries import plan_text

    made = make_plan(settings, anew=anew)
    return answer(plan_text(made, width=table_width(verbose=verbose)), plan_to_values(made), as_json=as_json)


def simulate(
    settings: Annotated[SimulateSettings, Flags] = SimulateSettings(),
    *,
    verbose: Details = False,
    as_json: AsJson = False,
) -> int:
    """The same rule on a table of scores.

    Example: buildup simulate --base resnetv2_50 --space paper --scores table.csv --judge point
    """
    from buildup.engine.simulate import run_simulation
    from buildup.report.text_table import decisions_table

    found = run_simulation(settings)
    lines = [
        *([found.left_unused, ""] if found.left_unused else []),
        decisions_table(found.decisions, width=table_width(verbose=verbose)),
        "",
        f"{found.layout} is left after {counted(found.trainings, 'training')}, the base included "
        f"(judge {found.judge}).",
        f"makespan {found.makespan:g} s on {counted(found.workers, 'worker')}, "
        f"{found.busy:.0%} busy, {found.wasted:g} worker seconds wasted on what no verdict needed.",
    ]
    verdicts = [{"layout": one.layout, "verdict": one.verdict, "reason": one.reason} for one in found.decisions]
    names = [field.name for field in fields(found) if field.name not in {"decisions", "left_unused"}]
    values = {"verdicts": verdicts, **{name: getattr(found, name) for name in names}}
    return answer("\n".join(lines), values, as_json=as_json)


def status(run: RunName, /, *, watch: Watch = False, verbose: Details = False, as_json: AsJson = False) -> int:
    """Say what runs, what was decided and what is left.

    Example: buildup status demo --watch
    """
    if watch and as_json:
        raise RequestError("--watch and --json: one document can't be followed. Leave one of them out.")
    text, values = _look(run, verbose=verbose)
    if watch:
        with interruptible(lambda: "The run goes on; only watching it has ended."):
            text = _follow(run, text, values, verbose=verbose)
    return answer(text, values, as_json=as_json)


def _look(run: str, *, verbose: bool) -> tuple[str, dict[str, Any]]:
    from buildup.engine.load_state import state_of
    from buildup.engine.status import status_text, status_values
    from buildup.store.run_record import open_record

    record = open_record(run)
    view, history = state_of(record)
    values = status_values(record, view, history)
    return status_text(record, view, values, width=table_width(verbose=verbose)), values


def _follow(run: str, text: str, values: dict[str, Any], *, verbose: bool) -> str:
    """Show the status until the run is over: in place in a terminal, elsewhere the lines that are new."""
    in_place, shown = sys.stdout.isatty(), set[str]()
    while values["status"] == "running" and values["left"] is not None:
        if in_place:
            print(f"\x1b[H\x1b[2J{coloured(text, sys.stdout)}", flush=True)
        else:
            new = [line for line in text.splitlines() if line.strip() and line not in shown]
            print("".join(f"{line}\n" for line in new), end="", flush=True)
            shown.update(new)
        time.sleep(PAUSE)
        text, values = _look(run, verbose=verbose)
    if in_place:
        print("\x1b[H\x1b[2J", end="")
    return text
