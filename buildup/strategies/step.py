"""What a rule is: steps to try, each of which knows what follows from either verdict on it; and strategies, by name."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal, Protocol

from buildup.space.schema import SearchSpace
from buildup.trials.decision import Decision
from buildup.trials.training import Candidate


class Step(Protocol):
    """A candidate in its place in the search. It never changes, so what follows from it may be remembered."""

    @property
    def candidate(self) -> Candidate:
        """What is tried."""
        ...

    @property
    def share(self) -> float:
        """The part of the search's error that the verdict on it may use."""
        ...

    def after(self, decision: Decision) -> "Step | None":
        """What follows from its verdict; None at the end of the search."""
        ...

    def successor(self, kept: bool) -> "Step | None":
        """What would follow from a verdict, as far as that can be known before it falls; None where it can't."""
        ...

    def left(self, kept: bool) -> int:
        """How many verdicts are to come from here on, this one included, if all of them are the same."""
        ...


class Rule(Protocol):
    """What to try next."""

    @property
    def base(self) -> Candidate:
        """Where the search starts."""
        ...

    @property
    def first(self) -> Step | None:
        """What is tried first; None where there is nothing to try."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Strategy:
    """A way to propose candidates, which a search names."""

    name: str
    make: Callable[[Candidate, SearchSpace, int], Rule]
    """From where to start, what is allowed, and a seed for what is drawn."""
    builds_up: bool = False
    """Whether each candidate is one step from a kept parent, and the space steers these steps."""
    weighs: Literal["MACs", "parameters"] | None = None
    """What must be counted of each candidate, because the rule weighs it against the score."""

    def unused(self, space: SearchSpace) -> str | None:
        """What it leaves unused of a space, in words: its layouts are those of the build-up rule, not its walk."""
        if self.builds_up or not space.steering:
            return None
        names = ", ".join(space.steering)
        return (
            f"strategy {self.name}: {names} of space {space.name} steer the build-up rule alone, and change nothing "
            "here."
        )


def walk(first: Step | None, decisions: Iterable[Decision]) -> Step | None:
    """The step that these verdicts lead to."""
    step = first
    for decision in decisions:
        if step is None:
            break
        step = step.after(decision)
    return step


def hypothetical(candidate: Candidate, kept: bool) -> Decision:
    """A decision that has not fallen, for asking a rule what would follow from it."""
    return Decision(
        step=0,
        candidate=candidate.id,
        parent=candidate.parent.id if candidate.parent else "",
        edit=candidate.edit,
        layout=candidate.layout,
        scores=(),
        parent_scores=(),
        gain=0.0,
        ci=(0.0, 0.0),
        verdict="keep" if kept else "drop",
        reason="imagined",
        judge="",
        level=0.0,
        looks=0,
        seeds=0,
    )
