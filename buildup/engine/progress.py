"""Observers of a search: a live table in a terminal, plain log lines elsewhere, and callbacks."""

import logging
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TextIO

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from buildup.engine.forecast import forecast, left
from buildup.engine.loop import Observer
from buildup.engine.replay import Replay, View
from buildup.engine.status import progress, running_table
from buildup.report.text_table import growth
from buildup.report.words import duration, short_edit
from buildup.store.run_record import RunRecord
from buildup.trials.decision import Decision
from buildup.trials.event import Event, Started
from buildup.trials.history import History
from buildup.trials.outcome import Failure, Reason, Record
from buildup.trials.training import Training

log = logging.getLogger("buildup")

SILENCE = 120.0
"""Seconds after which plain lines say how far the running trainings are."""

OnEvent = Callable[[Event | Decision], object]
"""A callback, called with each event of a training and with each decision."""


@contextmanager
def display(replay: Replay, run: RunRecord) -> Iterator[Observer]:
    """Show a search on stderr: by a live table in a terminal or notebook, by plain lines elsewhere."""
    lines = PlainObserver(replay=replay, epochs=run.settings.epochs, workers=run.settings.workers)
    console = Console(file=sys.stderr)
    if not (shows_live(sys.stderr) or console.is_jupyter):
        yield lines
        return
    with Live(console=console, refresh_per_second=4, transient=True, redirect_stdout=False) as live:
        yield LiveObserver(lines=lines, live=live)


def shows_live(stream: TextIO) -> bool:
    """Whether a picture can be drawn anew in place: in a terminal that a person looks at, not in CI or a pipe."""
    return stream.isatty() and os.environ.get("TERM") != "dumb" and not os.environ.get("CI")


@dataclass(kw_only=True)
class CallbackObserver:
    """Calls a function with each event and each decision."""

    on_event: OnEvent
    decided: int = 0

    def see(self, view: View, history: History, event: Event | None) -> None:
        if event is not None:
            self.on_event(event)
        for decision in view.decisions[self.decided :]:
            self.on_event(decision)
        self.decided = len(view.decisions)


@dataclass(kw_only=True)
class PlainObserver:
    """Logs one line per training and one per decision."""

    replay: Replay
    epochs: int
    workers: int
    reported: int = 0
    """The number of decisions that were printed."""
    running: dict[str, tuple[Training, str]] = field(default_factory=dict)
    """The running trainings with their workers, by id."""
    clock: Callable[[], float] = time.monotonic
    _left: tuple[object, str] = (None, "")
    _said: float | None = None
    """When the last line was logged."""

    def see(self, view: View, history: History, event: Event | None) -> None:
        """Log the new lines; where there were none for a while, how far the running trainings are."""
        lines, now = self.news(view, history, event), self.clock()
        self._said = now if self._said is None else self._said
        if not lines and now - self._said >= SILENCE:
            lines = [f"running    {self._said_of(row)}" for row in self.rows(history)]
        self._said = now if lines else self._said
        for line in lines:
            log.info("%s", line)

    def news(self, view: View, history: History, event: Event | None) -> list[str]:
        lines = []
        if event is not None and isinstance(event.update, Started):
            self.running[event.training.id] = (event.training, event.update.worker)
        if event is not None and isinstance(event.update, Record):
            self.running.pop(event.training.id, None)
            outcome = event.update.outcome
            if isinstance(outcome, Failure) and outcome.reason is Reason.UNNEEDED:
                lines.append(f"training   {_name(event.training)}  ended: {outcome.message}")
            else:
                objective = self.replay.judge.objective
                score = (
                    f"failed: {outcome.reason.value}"
                    if isinstance(outcome, Failure)
                    else objective.shown(objective.value(outcome))
                )
                lines.append(f"training   {_name(event.training)}  {score}  {outcome.seconds:.1f} s")
        new = view.decisions[self.reported :]
        lines += [f"decision {decision.step}  {short_edit(decision.edit)}  {decision.reason}" for decision in new]
        if new and not view.finished:
            lines.append(f"           {view.best.layout}; {self.left(view, history)}")
        self.reported = len(view.decisions)
        return lines

    def rows(self, history: History) -> list[dict[str, Any]]:
        rows, objective = [], self.replay.judge.objective
        for one, worker in self.running.values():
            curve, epochs = history.curves.get(one.id, ()), one.candidate.epochs(self.epochs)
            rows.append({"worker": worker, **progress(one.candidate.edit, one.seed, curve, epochs, objective)})
        return rows

    def _said_of(self, row: dict[str, Any]) -> str:
        score = "..." if row["score"] is None else self.replay.judge.objective.shown(row["score"])
        eta = "..." if row["seconds_left"] is None else duration(row["seconds_left"])
        name = f"{short_edit(row['edit'])}  seed {row['seed']}"
        return f"{name}  epoch {row['epoch']} of {row['epochs']}, {score}, {eta} left"

    def left(self, view: View, history: History) -> str:
        """What is left of the search. It is not computed anew for every epoch, because a forecast takes a while."""
        known = (len(history.outcomes), len(view.decisions), bool(history.curves))
        if self._left[0] != known:
            found = forecast(self.replay, view, history, workers=self.workers, epochs=self.epochs)
            self._left = known, left(self.replay, view, found)
        return self._left[1]


def _name(training: Training) -> str:
    return f"{short_edit(training.candidate.edit) or 'the base'}  seed {training.seed}"


@dataclass(kw_only=True)
class LiveObserver:
    """The network as it grows, the running trainings and what is left, below the lines of a `PlainObserver`."""

    lines: PlainObserver
    live: Live

    def see(self, view: View, history: History, event: Event | None) -> None:
        for line in self.lines.news(view, history, event):
            text = Text(line, style="bold" if line.startswith("decision") else "")
            text.highlight_words(["kept"], "blue")
            text.highlight_words(["dropped"], "yellow")
            self.live.console.print(text)
        objective, width = self.lines.replay.judge.objective, self.live.console.width
        grid = Table.grid(padding=(0, 2))
        for name, letters in growth(view.best.network, view.current.network if view.current else None):
            row = Text(letters)
            row.highlight_regex(r"[^C\[\]]", "bold blue")
            row.highlight_regex(r"\[.*?\]", "bold yellow")
            grid.add_row(Text(name, style="dim"), row)
        rows = self.lines.rows(history)
        table = running_table(rows, objective, "training", width=width) if rows else "no training runs just now"
        foot = Text(f"{view.best.layout}; {self.lines.left(view, history)}", style="dim")
        self.live.update(Group("", grid, "", Text(table, no_wrap=True, overflow="ellipsis"), foot))
