"""Whether the end of a stage is the right place: the score of networks whose blocks were changed anywhere in a stage.

The build-up rule only tries places from the end of a stage. Runs of controls with `--places any` change as many blocks,
but anywhere, so their scores can say whether later places are better.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from buildup.graph.kinds import Conv
from buildup.report.comparison import Compared
from buildup.statistics.kendall import Agreement, kendall
from buildup.trials.objective import OBJECTIVES

MOST_RANKED = 200
"""Networks of a run that are ranked, the first ones. Exact intervals of more would take minutes."""
SIGNIFICANT = 0.05


def place_of(layout: str) -> float | None:
    """The mean place of the changed blocks: 0 at the beginning of their stage, 1 at its end; None without any.

    The beginning is the second block, since the first one mostly changes the shape, and stays. Stages of two blocks
    have one place alone, which says nothing. So the mean over all places is the same in each stage.

    >>> place_of("CCC|CMCCM"), place_of("CCM|MCC"), place_of("CM|CM")
    (0.5, 0.5, None)
    """
    stages = layout.split("|")
    places = [
        max(0, index - 1) / (len(stage) - 2)
        for stage in stages
        if len(stage) > 2
        for index, letter in enumerate(stage)
        if letter != Conv.letter
    ]
    return fmean(places) if places else None


@dataclass(frozen=True, slots=True, kw_only=True)
class PlacedNetwork:
    """A network of a run that was free to change blocks anywhere."""

    run: str
    layout: str
    place: float
    score: float
    objective: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PlaceFindings:
    """The networks of such runs, and the rank correlation of place and score within runs."""

    networks: Sequence[PlacedNetwork]
    agreement: Agreement | None
    """Positive if later places are better. None where no run has two networks."""

    @property
    def words(self) -> str:
        """The answer as a sentence."""
        if self.agreement is None:
            return "No run with --places any has two networks yet, so nothing can be said about places."
        found = self.agreement
        numbers = (
            f"Kendall's tau of place and score {found.tau:+.2f} (95 % interval {found.low:+.2f} to {found.high:+.2f}, "
            f"p = {found.p:.2g}, {found.count} networks that were free to change blocks anywhere in a stage)"
        )
        if found.p >= SIGNIFICANT:
            return f"These runs do not tell whether the end of a stage or its beginning is the better place: {numbers}."
        if found.tau > 0:
            return f"Later places in a stage are better, as the paper says: {numbers}."
        return f"Earlier places in a stage are better, against the paper: {numbers}."


def find_places(runs: Sequence[Compared]) -> PlaceFindings | None:
    """Place and score of the networks of runs with `--places any`; None if there are none."""
    networks = [
        PlacedNetwork(run=run.run, layout=point.layout, place=place, score=point.score, objective=run.objective)
        for run in runs
        if run.facts.get("places") == "any"
        for point in run.points[:MOST_RANKED]
        if (place := place_of(point.layout)) is not None
    ]
    if not networks:
        return None
    signs = {run.run: OBJECTIVES[run.objective].sign for run in runs}
    groups = [one.run for one in networks]
    agreement = None
    if len(set(groups)) < len(groups):
        better = [signs[one.run] * one.score for one in networks]
        agreement = kendall([one.place for one in networks], better, groups=groups)
    return PlaceFindings(networks=networks, agreement=agreement)
