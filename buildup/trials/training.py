"""Candidates, and their trainings with one seed each: the unit of work, one Optuna trial."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from math import ceil
from typing import Literal

from buildup.graph.layout import layout
from buildup.graph.network import Edit, Network
from buildup.graph.serialize import fingerprint

CHECKPOINT = "checkpoint.pt"
"""In the folder of an attempt: the state from which another attempt continues."""
WEIGHTS = "weights.safetensors"
"""The trained weights, which replace the checkpoint when an attempt has ended."""
SNAPSHOTS = "weights-*.safetensors"
"""The weights after an epoch, whose number takes the place of the star."""
LONGER = 1.5
"""The check `longer` trains the base for this many times the usual epochs."""

RATE = 3
"""The check `rate` trains a pretrained base at this many times the usual learning rate."""

Check = Literal["longer", "rounding", "rate", "fresh"]
"""What the base is trained once more for: does it still climb, and how much does rounding matter? Of pretrained weights
also: is the learning rate too low for them, and what do new weights alone gain?"""
CHECKS: Mapping[Check, str] = {
    "longer": f"the base for {LONGER:g} times the epochs",
    "rounding": "the base with weights changed by rounding",
    "rate": f"the base at {RATE} times the learning rate",
    "fresh": "the base with its last block drawn anew",
}
"""The checks, and their trainings in words."""
USUAL_CHECKS: tuple[Check, ...] = ("longer", "rounding")
"""Those of a search without pretrained weights."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pretrained:
    """The source and the identity of trained weights of a base."""

    source: str
    """The absolute path of a file, or a model name of timm with a pretrained tag."""
    hash: str
    """The hash of all names and values, to recognise the same weights later."""

    def __str__(self) -> str:
        return f"{self.source} ({self.hash[:12]})"


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightsOrigin:
    """What timm says of weights of its own."""

    name: str
    """With the pretrained tag."""
    license: str
    """Empty where timm names none."""
    hub_id: str
    """Their place on the Hugging Face Hub; empty where they are elsewhere."""


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A network to be trained, and the parent that its scores are compared with."""

    network: Network
    parent: "Candidate | None" = None
    edits: tuple[Edit, ...] = ()
    """The edits from the parent's network: one, or several when the rule looked ahead."""
    check: Check | None = None
    """Set where the base is trained once more. Then it has the network of its parent, the base."""

    @cached_property
    def id(self) -> str:
        """The fingerprint of its network, and the name of its check."""
        return check_id(fingerprint(self.network), self.check) if self.check else fingerprint(self.network)

    @cached_property
    def layout(self) -> str:
        return layout(self.network)

    @cached_property
    def edit(self) -> str:
        """Its edits as text; empty for the base."""
        return CHECKS[self.check] if self.check else ", ".join(map(str, self.edits))

    def epochs(self, usual: int) -> int:
        """The epochs of its trainings, given the `usual` number of the search."""
        return ceil(LONGER * usual) if self.check == "longer" else usual


@dataclass(frozen=True, kw_only=True)
class Training:
    """A candidate to be trained with one seed. Trainings with equal ids are the same."""

    candidate: Candidate
    seed: int

    def __str__(self) -> str:
        return f"{self.candidate.edit or 'the base'}  seed {self.seed}"

    @cached_property
    def id(self) -> str:
        """The name of its folder: fingerprint and seed."""
        return training_id(self.candidate.id, self.seed)


def check_id(candidate: str, check: Check) -> str:
    """The id of a candidate that is trained for a check. It differs, so that no mean or judge takes the two for one.

    >>> check_id("0f3a", "longer")
    '0f3a-longer'
    """
    return f"{candidate}-{check}"


def training_id(candidate_id: str, seed: int) -> str:
    """The id of a training.

    >>> training_id("0f3a", 2)
    '0f3a-s2'
    """
    return f"{candidate_id}-s{seed}"


def seed_of(training: str) -> int:
    """The seed of a training.

    >>> seed_of("0f3a-s2")
    2
    """
    return int(training.rpartition("-s")[2])


def candidate_id(training: str) -> str:
    """The id of the candidate of a training.

    >>> candidate_id("0f3a-s2")
    '0f3a'
    """
    return training.rpartition("-s")[0]
