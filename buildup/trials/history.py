"""What was trained and decided so far: a value that grows, and nothing else is remembered."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from buildup.trials.decision import Decision
from buildup.trials.outcome import Epoch, Outcome
from buildup.trials.training import training_id


@dataclass(frozen=True, kw_only=True)
class History:
    """Everything that the rule may look at. Trainings are named by their ids."""

    outcomes: Mapping[str, Outcome] = field(default_factory=dict)
    curves: Mapping[str, tuple[Epoch, ...]] = field(default_factory=dict)
    decisions: tuple[Decision, ...] = ()

    def outcome(self, candidate_id: str, seed: int) -> Outcome | None:
        """How a training ended; None while it has not."""
        return self.outcomes.get(training_id(candidate_id, seed))

    def with_epoch(self, training: str, epoch: Epoch) -> "History":
        """With one more epoch of a training; one that is known already changes nothing."""
        curve = self.curves.get(training, ())
        if epoch.number <= len(curve):
            return self
        return replace(self, curves={**self.curves, training: (*curve, epoch)})

    def with_outcome(self, training: str, outcome: Outcome) -> "History":
        """With the end of a training."""
        return replace(self, outcomes={**self.outcomes, training: outcome})

    def with_decision(self, decision: Decision) -> "History":
        """With one more verdict."""
        return replace(self, decisions=(*self.decisions, decision))
