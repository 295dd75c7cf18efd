"""`buildup status`."""

import sys
import time
from contextlib import ExitStack
from typing import Annotated, Any

from cyclopts import Parameter

from buildup.cli.output import AsJson, Details, RunName, answer, coloured, interruptible, table_width
from buildup.errors import RequestError

Watch = Annotated[bool, Parameter(name="--watch", help="Follow the run until it ends.")]
PAUSE = 5.0
"""Seconds between two looks at a run."""


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
    from rich.console import Console
    from rich.live import Live
    from rich.text import Text

    from buildup.engine.progress import shows_live

    shown = set[str]()
    with ExitStack() as stack:
        live: Live | None = None
        if shows_live(sys.stdout):
            live = stack.enter_context(Live(console=Console(), auto_refresh=False, transient=True))
        while values["status"] == "running" and values["left"] is not None:
            if live:
                live.update(Text.from_ansi(coloured(text, sys.stdout)), refresh=True)
            else:
                new = [line for line in text.splitlines() if line.strip() and line not in shown]
                print("".join(f"{line}\n" for line in new), end="", flush=True)
                shown.update(new)
            time.sleep(PAUSE)
            text, values = _look(run, verbose=verbose)
    return text
