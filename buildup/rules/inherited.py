"""The build-up rule with inherited weights: a candidate begins with what its parent has learned.

Each candidate trains for a share of the epochs from its parent's weights of the same seed, new blocks starting as the
identity. So it has seen more epochs than its parent, and would win by these alone. Therefore it is compared with its
parent gone on from the same weights, for as long and on the same schedule. What is kept becomes the next parent:

    base, in full ---- base for longer            what the first candidates are compared with
              \\------ candidate 1 (dropped)
               \\----- candidate 2 (kept) ---- candidate 2 for longer
                                       \\---- candidate 3

Nothing else of the search knows of it: these are candidates with another parent and a giver, and a training whose
giver has not ended is replaced by its giver's, in what is waited for and in what is trained ahead.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

from buildup.rules.step import Rule, Step, walk
from buildup.trials.candidate import Candidate
from buildup.trials.decision import Decision


@dataclass(frozen=True, kw_only=True)
class InheritingRule:
    """Another rule, whose candidates begin with their parents' weights."""

    rule: Rule
    _heirs: dict[tuple[str, str], Candidate] = field(default_factory=dict, init=False, repr=False, compare=False)

    @property
    def base(self) -> Candidate:
        """Where the search starts; it is trained in full."""
        return self.rule.base

    @cached_property
    def first(self) -> Step | None:
        """The rule's own first step."""
        return self.step(self.rule.first)

    def propose(self, decisions: Sequence[Decision]) -> Candidate | None:
        """The candidate that follows from the verdicts so far; None at the end."""
        step = walk(self.first, decisions)
        return step.candidate if step else None

    def step(self, step: Step | None) -> Step | None:
        """A step of the rule, with its candidate as an heir."""
        return _Inheriting(rule=self, step=step) if step else None

    def heir(self, candidate: Candidate) -> Candidate:
        """A candidate of the rule, with whose weights it begins."""
        if candidate.parent is None:
            return candidate
        giver = self.heir(candidate.parent)
        key = (candidate.id, giver.id)
        if key not in self._heirs:  # walked again and again, and a fingerprint takes its time
            self._heirs[key] = Candidate(
                network=candidate.network, parent=giver.continued, edits=candidate.edits, giver=giver
            )
        return self._heirs[key]


@dataclass(frozen=True, kw_only=True)
class _Inheriting:
    rule: InheritingRule
    step: Step

    @cached_property
    def candidate(self) -> Candidate:
        return self.rule.heir(self.step.candidate)

    @property
    def share(self) -> float:
        return self.step.share

    def after(self, decision: Decision) -> Step | None:
        return self.rule.step(self.step.after(decision))

    def foreseen(self, kept: bool) -> Step | None:
        return self.rule.step(self.step.foreseen(kept))

    def left(self, kept: bool) -> int:
        return self.step.left(kept)
