"""The loop of every search, the same for real workers and for a table of scores."""

from collections.abc import Callable, Sequence
from typing import Protocol

from buildup.engine.replay import Replay, View
from buildup.engine.speculation import speculate
from buildup.execution.evaluator import Evaluator
from buildup.trials.decision import Decision
from buildup.trials.event import Event
from buildup.trials.history import History
from buildup.trials.training import Training

WAIT = 1.0
"""Seconds without an event after which observers are told that time passes."""


class HistoryWriter(Protocol):
    """Records events and decisions before they count."""

    def record(self, history: History, event: Event) -> History:
        """The history with an event in it."""
        ...

    def decide(self, history: History, decision: Decision) -> History:
        """The history with a decision in it."""
        ...


class Observer(Protocol):
    """Is told how a search goes on: a terminal, a log, a callback."""

    def see(self, view: View, history: History, event: Event | None) -> None:
        """Called once before the first event, after each event, and with None when a while passed without one."""
        ...


class NullObserver:
    """An observer that does nothing."""

    def see(self, view: View, history: History, event: Event | None) -> None:
        """Does nothing."""


def run_loop(
    replay: Replay,
    evaluator: Evaluator,
    writer: HistoryWriter,
    observer: Observer,
    history: History,
    inspect_base: Callable[[History], None] = lambda _: None,
    limit: Callable[[History], str | None] = lambda _: None,
) -> tuple[View, History]:
    """Search until the rule is finished or a limit is reached.

    Args:
        replay: The rule and the judge.
        evaluator: Trains what is requested.
        writer: Records each event and decision.
        observer: Is told of each event.
        history: What is known at the beginning.
        inspect_base: Raises when the base is not worth building on; called once, when it is trained.
        limit: Why the search should stop; None while it may go on.
    """
    inspected = False
    event: Event | None = None
    seen: History | None = None
    while True:
        changed = seen is None or replay.notices(seen, history)
        if changed:
            view = replay.view(history)
            if not inspected and view.current is not replay.base:
                inspect_base(history)
                inspected = True
            for decision in view.decisions[len(history.decisions) :]:
                history = writer.decide(history, decision)
            seen = history
        observer.see(view, history, event)
        if view.finished or limit(history):
            evaluator.request(())
            return view, history
        if changed:
            evaluator.request(speculate(view, history, replay, evaluator.workers))
        event = evaluator.next_event(timeout=WAIT)
        if event is not None:
            history = writer.record(history, event)


def train_all(
    trainings: Sequence[Training],
    evaluator: Evaluator,
    writer: HistoryWriter,
    history: History,
    see: Callable[[Event, int], None],
) -> History:
    """Train what the history lacks, in this order; `see` is told each event and how many trainings are left."""
    while left := [training for training in trainings if training.id not in history.outcomes]:
        evaluator.request(left)
        if event := evaluator.next_event(timeout=WAIT):
            history = writer.record(history, event)
            see(event, sum(training.id not in history.outcomes for training in left))
    evaluator.request(())
    return history
