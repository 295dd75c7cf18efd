"""The loop of a search, the same for real and simulated workers."""

from collections.abc import Callable, Sequence
from typing import Protocol

from buildup.engine.replay import Replay, View
from buildup.engine.speculation import speculate
from buildup.errors import SearchError
from buildup.execution.evaluator import Evaluator
from buildup.trials.decision import Decision
from buildup.trials.event import Event
from buildup.trials.history import History
from buildup.trials.outcome import Failure, Record
from buildup.trials.training import Training

WAIT = 1.0
"""Seconds without an event after which observers are called."""


class HistoryWriter(Protocol):
    """Stores events and decisions, and adds them to the history."""

    def record(self, history: History, event: Event) -> History:
        """Store an event, and return the history with it."""
        ...

    def decide(self, history: History, decision: Decision) -> History:
        """Store a decision, and return the history with it."""
        ...


class Observer(Protocol):
    """Follows a search: a terminal, a log, or a callback."""

    def see(self, view: View, history: History, event: Event | None) -> None:
        """Called once before the first event, after each event, and with None after `WAIT` seconds without one."""
        ...


def run_loop(
    replay: Replay,
    evaluator: Evaluator,
    writer: HistoryWriter,
    history: History,
    observers: Sequence[Observer] = (),
    inspect_base: Callable[[History], None] = lambda _: None,
    limit: Callable[[History], str | None] = lambda _: None,
) -> tuple[View, History]:
    """Run a search until no training is left or a limit is reached.

    Args:
        replay: The rule and the judge.
        evaluator: Trains the requested trainings.
        writer: Stores each event and decision.
        history: The trainings and decisions before.
        observers: Called with each event, in this order.
        inspect_base: Called once, when the base is trained. It raises if the base has not learned.
        limit: Returns the reason to stop, or None to continue.

    Returns:
        The last state of the search, and its history.
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
        for observer in observers:
            observer.see(view, history, event)
        if view.ended or limit(history):
            evaluator.request(())
            return view, history
        if changed:
            evaluator.request(speculate(view, history, replay, evaluator.workers))
        event = evaluator.next_event(timeout=WAIT)
        if event is not None:
            history = writer.record(history, raise_if_infrastructure(event))


def train_all(
    trainings: Sequence[Training],
    evaluator: Evaluator,
    writer: HistoryWriter,
    history: History,
    see: Callable[[Event, int], None],
) -> History:
    """Run the trainings that are not in the history, in this order."""
    while left := [training for training in trainings if training.id not in history.outcomes]:
        evaluator.request(left)
        if event := evaluator.next_event(timeout=WAIT):
            history = writer.record(history, raise_if_infrastructure(event))
            see(event, sum(training.id not in history.outcomes for training in left))
    evaluator.request(())
    return history


def raise_if_infrastructure(event: Event) -> Event:
    """Return the event, or raise if a training failed for a reason that says nothing about the candidate."""
    outcome = event.update.outcome if isinstance(event.update, Record) else None
    if isinstance(outcome, Failure) and outcome.reason.is_infrastructure:
        raise SearchError(
            f"{outcome.message} No decision was made on it. Once that is mended, `buildup resume` (or the same "
            f"`buildup final`) continues from there."
        )
    return event
