"""The loop of every search, on real workers and on a table alike."""

from collections.abc import Callable
from typing import Protocol

from buildup.engine.replay import Replay, View
from buildup.engine.speculation import speculate
from buildup.execution.evaluator import Evaluator, Event
from buildup.trials.decision import Decision
from buildup.trials.history import History


class Journal(Protocol):
    """Where events and decisions are written down before they count."""

    def record(self, history: History, event: Event) -> History:
        """The history with an event in it."""
        ...

    def decide(self, history: History, decision: Decision) -> History:
        """The history with a decision in it."""
        ...


class Observer(Protocol):
    """Who looks on: a terminal, a log, or nobody."""

    def see(self, view: View, history: History, event: Event | None) -> None:
        """Called after every event, and once before the first and with None when a while passed without any."""
        ...


class NullObserver:
    """Nobody looks on."""

    def see(self, view: View, history: History, event: Event | None) -> None:
        """Says nothing."""


def run(
    procedure: Replay,
    evaluator: Evaluator,
    journal: Journal,
    watcher: Observer,
    history: History,
    inspect_base: Callable[[History], None],
    limit: Callable[[History], str | None],
) -> tuple[View, History]:
    """Search until the rule is finished, or `limit` gives a reason to stop.

    `inspect_base` raises when the base is not worth building on.
    """
    inspected = False
    event: Event | None = None
    seen: History | None = None
    while True:
        fresh = seen is None or procedure.notices(seen, history)
        if fresh:
            view = procedure.view(history)
            if not inspected and view.current is not procedure.base:
                inspect_base(history)
                inspected = True
            for decision in view.decisions[len(history.decisions) :]:
                history = journal.decide(history, decision)
            seen = history
        watcher.see(view, history, event)
        if view.finished or limit(history):
            evaluator.request(())
            return view, history
        if fresh:
            evaluator.request(speculate(view, history, procedure, evaluator.workers))
        event = evaluator.next_event(timeout=1.0)
        if event is not None:
            history = journal.record(history, event)
