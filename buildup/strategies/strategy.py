"""Interfaces of the search: strategies make rules, and a rule proposes steps, each of which knows its successors."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol

from buildup.space.schema import SearchSpace
from buildup.trials.decision import Decision
from buildup.trials.training import Candidate


class Step(Protocol):
    """A candidate in its place in the search. Steps are immutable, so their successors may be cached."""

    @property
    def candidate(self) -> Candidate:
        """The candidate to try."""

    @property
    def share(self) -> float:
        """The share of the error of the search that the verdict may use."""

    def after(self, decision: Decision) -> "Step | None":
        """The step after this decision; None at the end of the search."""

    def successor(self, kept: bool) -> "Step | None":
        """The step after either verdict; None at the end of the search, or if it depends on the scores."""

    def remaining(self, kept: bool) -> int:
        """The number of verdicts from here on, including this one, if all of them are the same."""


class Rule(Protocol):
    """Decides what to try next."""

    @property
    def base(self) -> Candidate:
        """Where the search starts."""

    @property
    def first(self) -> Step | None:
        """The first step; None if there is nothing to try."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Strategy:
    """A named way to propose candidates."""

    name: str
    make: Callable[[Candidate, SearchSpace, int], Rule]
    """Makes the rule from the base, the space and a random seed."""
    builds_up: bool = False
    """Whether each candidate is one step from a kept parent, and the space steers these steps."""
    weighs: Literal["MACs", "parameters"] | None = None
    """The cost that must be known of each candidate, because the rule weighs it against the score."""

    def unused(self, space: SearchSpace) -> str | None:
        """A warning on settings of the space that this strategy does not use; None if there are none."""
        if self.builds_up and space.places == "any":
            return (
                f"strategy {self.name}: places: any is for the controls. The build-up rule goes from the end of each "
                "stage, as ever."
            )
        if self.builds_up or not space.steering:
            return None
        names = ", ".join(space.steering)
        return (
            f"strategy {self.name}: {names} of space {space.name} steer the build-up rule alone, and change nothing "
            "here."
        )
