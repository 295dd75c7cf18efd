"""Trainings in several processes that only count. Processes that are started can import this file."""

from collections.abc import Generator

import torch
from torch import distributed

from buildup.training.data_parallel import ProcessGroup
from buildup.trials.outcome import Epoch, Failed, Reason, Score


def counting(epochs: int, breaks: Exception | None, group: ProcessGroup) -> Generator[Epoch, None, Score]:
    """Counts epochs together; the last process raises in the second one."""
    total = torch.zeros(())
    for number in range(1, epochs + 1):
        if breaks and number == 2 and group.rank == group.size - 1:
            raise breaks
        distributed.all_reduce(total := torch.tensor(float(group.rank + 1)))
        yield Epoch(number=number, metrics={"total": total.item()})
    return Score(accuracy=total.item())


DIVERGES = Failed(Reason.DIVERGED, "the loss is not a number")
