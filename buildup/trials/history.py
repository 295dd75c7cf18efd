"""The history of a search: all trainings and decisions so far, as an immutable value."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace

from buildup.trials.decision import Decision
from buildup.trials.outcome import Epoch, Failure, Outcome, Score
from buildup.trials.training import training_id


@dataclass(frozen=True, kw_only=True)
class History:
    """Everything that the rule knows. Trainings are named by their ids."""

    outcomes: Mapping[str, Outcome] = field(default_factory=dict)
    curves: Mapping[str, tuple[Epoch, ...]] = field(default_factory=dict)
    decisions: tuple[Decision, ...] = ()
    costs: Mapping[str, tuple[int, int]] = field(default_factory=dict, compare=False)
    """Parameters and MACs of candidates by id, as far as they were recorded when the history was read."""

    def outcome(self, candidate_id: str, seed: int) -> Outcome | None:
        """The outcome of a training; None while it has not ended."""
        return self.outcomes.get(training_id(candidate_id, seed))

    def avoidable_failures(self) -> dict[str, Failure]:
        return {
            key: outcome
            for key, outcome in self.outcomes.items()
            if isinstance(outcome, Failure) and outcome.reason.is_avoidable
        }

    def epoch_seconds(self, usual: int) -> dict[str, float]:
        """Seconds per epoch of the trainings that have a score, by training; `usual` epochs where it has no curve."""
        return {
            key: outcome.seconds / (len(self.curves.get(key, ())) or usual)
            for key, outcome in self.outcomes.items()
            if isinstance(outcome, Score)
        }

    def with_epoch(self, training: str, epoch: Epoch) -> "History":
        """The history with one more epoch of a training; a known epoch changes nothing."""
        curve = self.curves.get(training, ())
        if epoch.number <= len(curve):
            return self
        return replace(self, curves={**self.curves, training: (*curve, epoch)})

    def with_outcome(self, training: str, outcome: Outcome) -> "History":
        return replace(self, outcomes={**self.outcomes, training: outcome})

    def without(self, trainings: Collection[str]) -> "History":
        return replace(self, outcomes={key: one for key, one in self.outcomes.items() if key not in trainings})

    def with_decision(self, decision: Decision) -> "History":
        return replace(self, decisions=(*self.decisions, decision))
