"""Follows a training to its end."""

from collections.abc import Generator

from buildup.trials.outcome import Epoch, Score


def follow(training: Generator[Epoch, None, Score]) -> tuple[list[Epoch], Score]:
    """The epochs and the score of a training."""
    epochs = []
    while True:
        try:
            epochs.append(next(training))
        except StopIteration as end:
            return epochs, end.value
