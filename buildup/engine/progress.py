"""Observers of a search: a live block on a terminal, plain lines elsewhere, and callbacks."""

import logging
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TextIO

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from buildup.engine.forecast import Forecast, forecast
from buildup.engine.replay import Replay, View
from buildup.report.words import duration
from buildup.store.run_record import RunRecord
from buildup.trials.decision import Decision
from buildup.trials.event import Event, Started
from buildup.trials.history import History
from buildup.trials.objective import Objective
from buildup.trials.outcome import Epoch, Failure, Reason, Record
from buildup.trials.training import Training

log = logging.getLogger("buildup")

SILENCE_BEFORE_NOTICE = 60.0
"""Seconds without any worker after which the watcher says that it waits."""


def observe(replay: Replay, run: RunRecord, stream: TextIO | None = None) -> "PlainObserver | LiveObserver":
    """The observer that fits where stderr goes: a live block in a terminal or notebook, plain lines elsewhere."""
    plain = PlainObserver(replay=replay, epochs=run.settings.epochs, workers=run.settings.workers)
    console = Console(file=stream or sys.stderr)
    return LiveObserver(lines=plain, console=console) if console.is_terminal or console.is_jupyter else plain


@dataclass(kw_only=True)
class CallbackObserver:
    """Hands each event and each decision to a function, beside another observer."""

    observer: "PlainObserver | LiveObserver"
    on_event: Callable[[Event | Decision], object]
    decided: int = 0

    def __enter__(self) -> "CallbackObserver":
        self.observer.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self.observer.__exit__(*error)

    def see(self, view: View, history: History, event: Event | None) -> None:
        """Tell the other observer first, so that a callback that raises hides nothing."""
        self.observer.see(view, history, event)
        if event is not None:
            self.on_event(event)
        for decision in view.decisions[self.decided :]:
            self.on_event(decision)
        self.decided = len(view.decisions)


@dataclass(kw_only=True)
class PlainObserver:
    """One line a training and one a decision."""

    replay: Replay
    epochs: int
    workers: int
    told: int = 0
    """How many decisions were printed."""
    running: set[str] = field(default_factory=set)
    silent_since: float = field(default_factory=time.monotonic)
    _left: tuple[object, str] = (None, "")

    def __enter__(self) -> "PlainObserver":
        return self

    def __exit__(self, *error: object) -> None:
        return None

    def see(self, view: View, history: History, event: Event | None) -> None:
        """Print what is new."""
        for line in self.news(view, history, event):
            log.info("%s", line)

    def news(self, view: View, history: History, event: Event | None) -> list[str]:
        """What is new, as lines."""
        lines = self._waiting(event)
        if event is not None and isinstance(event.update, Record):
            outcome = event.update.outcome
            if isinstance(outcome, Failure) and outcome.reason is Reason.UNNEEDED:
                lines.append(f"training   {name_of(event.training)}  ended: {outcome.message}")
            else:
                objective = self.replay.judge.objective
                score = (
                    f"failed: {outcome.reason.value}"
                    if isinstance(outcome, Failure)
                    else objective.shown(objective.value(outcome))
                )
                lines.append(f"training   {name_of(event.training)}  {score}  {outcome.seconds:.1f} s")
        lines += [
            f"decision {decision.step}  {decision.edit}  {decision.reason}" for decision in view.decisions[self.told :]
        ]
        if self.told < len(view.decisions) and not view.finished:
            lines.append(f"           {view.best.layout}; {self.left(view, history)}")
        self.told = len(view.decisions)
        return lines

    def _waiting(self, event: Event | None) -> list[str]:
        """Say so, once a while, when no worker takes anything up."""
        if event is not None and isinstance(event.update, Started):
            self.running.add(event.training.id)
        if event is not None and isinstance(event.update, Record):
            self.running.discard(event.training.id)
        now = time.monotonic()
        if event is not None or self.running:
            self.silent_since = now
        if now - self.silent_since < SILENCE_BEFORE_NOTICE:
            return []
        self.silent_since = now
        return [
            f"waiting    no worker has started for {SILENCE_BEFORE_NOTICE:g} s: Ray has no room for one just now. "
            "`ray status` shows who uses the cluster; Ctrl-C ends this run, to be resumed."
        ]

    def left(self, view: View, history: History) -> str:
        """How much is left. Foreseeing that takes a while, so it is not done for every epoch."""
        known = (len(history.outcomes), len(view.decisions), bool(history.curves))
        if self._left[0] != known:
            self._left = known, left(self.replay, view, history, workers=self.workers, epochs=self.epochs)
        return self._left[1]


def left(replay: Replay, view: View, history: History, *, workers: int, epochs: int) -> str:
    """How much of a search is left: the trainings that may still come and, as soon as times are known, how long."""
    least, most = sorted(replay.verdicts_left(view.decisions, kept) for kept in (False, True))
    fewest, largest = least * replay.seeds, most * replay.most_seeds
    count = f"{fewest} to {largest} trainings left" if fewest < largest else f"{largest} trainings left"
    found = forecast(replay, view, history, workers=workers, epochs=epochs)
    return f"{count}, {expected(found)}" if found else count


def expected(found: Forecast) -> str:
    """A forecast in words.

    >>> expected(Forecast(seconds=700.0, low=500.0, high=1000.0, trainings=6.4))
    '6 expected: about 11 min 40 s (8 min 20 s to 16 min 40 s)'
    """
    about, low, high = map(duration, (found.seconds, found.low, found.high))
    span = f" ({low} to {high})" if low != high else ""
    return f"{round(found.trainings)} expected: about {about}{span}"


@dataclass(kw_only=True)
class LiveObserver:
    """A block that is drawn anew: the decisions so far, the trainings that run, what is left."""

    lines: PlainObserver
    console: Console
    _running: dict[str, tuple[Training, str]] = field(default_factory=dict)
    _live: Live | None = None

    def __enter__(self) -> "LiveObserver":
        self._live = Live(console=self.console, refresh_per_second=4, transient=True, redirect_stdout=False)
        self._live.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        assert self._live is not None
        self._live.__exit__(None, None, None)

    def see(self, view: View, history: History, event: Event | None) -> None:
        """Print what is new above the block, and draw the block."""
        assert self._live is not None
        if event is not None and isinstance(event.update, Started):
            self._running[event.training.id] = (event.training, event.update.worker)
        if event is not None and isinstance(event.update, Record):
            self._running.pop(event.training.id, None)
        for line in self.lines.news(view, history, event):
            self._live.console.print(Text(line, style="bold" if line.startswith("decision") else ""), soft_wrap=True)
        self._live.update(self._block(view, history, event))

    def _block(self, view: View, history: History, event: Event | None) -> Group:
        table = Table(box=None, pad_edge=False, header_style="dim")
        objective = self.lines.replay.judge.objective
        for column in ("training", "epoch", objective.name, "left", "worker"):
            table.add_column(column, no_wrap=column != "training")
        for training, worker in self._running.values():
            curve = history.curves.get(training.id, ())
            table.add_row(
                name_of(training),
                f"{len(curve)}/{self.lines.epochs}",
                reached(curve, objective) or "...",
                _eta(curve, self.lines.epochs),
                worker,
            )
        return Group(table, Text(f"{view.best.layout}; {self.lines.left(view, history)}", style="dim"))


def name_of(training: Training) -> str:
    """A training as people follow it."""
    return f"{training.candidate.edit or 'the base'}  seed {training.seed}"


def reached(curve: Sequence[Epoch], objective: Objective) -> str:
    """What a training has reached by its last epoch; nothing before the first."""
    value = objective.at(curve[-1]) if curve else None
    return "" if value is None else objective.shown(value)


def _eta(curve: tuple[Epoch, ...], epochs: int) -> str:
    known = [epoch.metrics["seconds"] for epoch in curve if "seconds" in epoch.metrics]
    return duration(sum(known) / len(known) * (epochs - len(curve))) if known else "..."
