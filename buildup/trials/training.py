"""One candidate with one seed: the unit of work, one Optuna trial."""

from dataclasses import dataclass
from functools import cached_property

from buildup.trials.candidate import Candidate

CHECKPOINT = "checkpoint.pt"
"""In the folder of an attempt: what another attempt goes on from."""
WEIGHTS = "weights.safetensors"
"""The trained weights, in place of the checkpoint once the attempt has ended."""


@dataclass(frozen=True, kw_only=True)
class Training:
    """A candidate to be trained with one seed. Two trainings are the same one when their ids are equal."""

    candidate: Candidate
    seed: int

    @cached_property
    def id(self) -> str:
        """The name of its folder: fingerprint and seed."""
        return training_id(self.candidate.id, self.seed)


def training_id(candidate_id: str, seed: int) -> str:
    """The id of a training, without the candidate itself.

    >>> training_id("0f3a", 2)
    '0f3a-s2'
    """
    return f"{candidate_id}-s{seed}"


def candidate_id(training: str) -> str:
    """Whose training an id names.

    >>> candidate_id("0f3a-s2")
    '0f3a'
    """
    return training.rpartition("-s")[0]
