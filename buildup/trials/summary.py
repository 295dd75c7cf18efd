"""A network of a search with all that is known of it: its trainings taken together, and its verdict."""

from collections.abc import Mapping
from dataclasses import dataclass
from statistics import fmean

from buildup.trials.decision import Decision


@dataclass(frozen=True, slots=True, kw_only=True)
class CandidateSummary:
    """The trainings of one candidate, and the decision on it."""

    id: str
    layout: str
    edit: str
    """Empty for the base."""
    parent: str | None
    accuracies: Mapping[int, float]
    """By seed, of the trainings that have a score."""
    macs: int | None = None
    decision: Decision | None = None
    """None for the base, and where no verdict has fallen."""

    @property
    def mean(self) -> float | None:
        """The mean accuracy over its seeds; None before the first score."""
        return fmean(self.accuracies.values()) if self.accuracies else None

    @property
    def kept(self) -> bool:
        """Whether the search went on from it: the base, and each kept candidate."""
        return self.parent is None or (self.decision is not None and self.decision.kept)
