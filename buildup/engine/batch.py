"""A fixed set of trainings, all of which are needed: no verdict says what comes next."""

from collections.abc import Callable, Sequence

from buildup.engine.loop import Journal
from buildup.execution.evaluator import Evaluator, Event
from buildup.trials.history import History
from buildup.trials.training import Training


def train_all(
    trainings: Sequence[Training],
    evaluator: Evaluator,
    journal: Journal,
    history: History,
    see: Callable[[Event, int], None],
) -> History:
    """Train what the history lacks, in this order; `see` is told each event and how many are left after it."""
    while left := [training for training in trainings if training.id not in history.outcomes]:
        evaluator.request(left)
        if event := evaluator.next_event(timeout=1.0):
            history = journal.record(history, event)
            see(event, sum(training.id not in history.outcomes for training in left))
    evaluator.request(())
    return history
