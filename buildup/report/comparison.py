"""The comparison of several searches: their results and costs, and whether their scores are comparable."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import fmean
from typing import Any, Literal

from buildup.graph.kinds import Conv
from buildup.graph.layout import layout
from buildup.graph.serialize import fingerprint
from buildup.report.diagnostic_table import SIGNIFICANCE
from buildup.report.findings import Findings
from buildup.statistics.kendall import Agreement, kendall
from buildup.trials.final_result import Final
from buildup.trials.objective import OBJECTIVES
from buildup.trials.outcome import Score
from buildup.trials.training import candidate_id

_SUBJECT = ("base", "stem", "dataset", "data hash", "validation images")
MUST_MATCH = (*_SUBJECT, "recipe", "epochs", "fraction", "objective", "start", "precision")
"""The facts that must be equal for the scores of two runs to be comparable."""
MAY_DIFFER = ("space", "places", "judge", "seeds", "first seed", "steps", "device", "torch")
"""Facts that may differ. The comparison names those that do: they change what was tried, how certain a verdict is, or
the rounding of sums."""

MOST_RANKED = 200
"""Networks of a run that are ranked, the first ones. Exact intervals of more would take minutes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoredNetwork:
    """A trained network with its cost and score."""

    layout: str
    role: Literal["base", "winner", "kept", "dropped"]
    params: int
    macs: int
    score: float
    """The mean over seeds, in the unit of the objective. Base and winner are compared on the seeds that both have."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BestSoFar:
    trainings: int
    """The trainings that verdicts used so far. Those started ahead and never used are not counted."""
    score: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Compared:
    """One run of a comparison."""

    run: str
    strategy: str
    judge: str
    finished: str
    facts: Mapping[str, str]
    """The values of `MUST_MATCH` and `MAY_DIFFER`."""
    objective: str
    verdicts: int
    kept: int
    trainings: int
    """All trainings that ended, also those that failed."""
    reused: int
    """The trainings taken from another run."""
    seconds: float
    """The sum over all trainings, including reused ones."""
    points: tuple[ScoredNetwork, ...]
    reached: tuple[BestSoFar, ...]
    gains: tuple[float, ...]
    """The improvement of the winner over the base for each seed that both have."""
    final: Final | None

    @property
    def winner(self) -> ScoredNetwork | None:
        """The winner, which may be the base; None before the base is trained."""
        roles = {point.role: point for point in self.points}
        return roles.get("winner", roles.get("base"))

    @property
    def needed(self) -> int:
        """The number of trainings that verdicts used."""
        return self.reached[-1].trainings if self.reached else 0

    @property
    def gain(self) -> float | None:
        return fmean(self.gains) if self.gains else None


def compared(findings: Findings, facts: Mapping[str, str]) -> Compared:
    objective = findings.objective
    outcomes = findings.history.outcomes
    return Compared(
        run=findings.run,
        strategy=str(findings.settings.get("strategy", "")),
        judge=str(findings.settings.get("judge", "")),
        finished=findings.finished,
        facts=facts,
        objective=objective.name,
        verdicts=len(findings.decisions),
        kept=len(findings.kept),
        trainings=len(outcomes),
        reused=len(findings.reused),
        seconds=sum(outcome.seconds for outcome in outcomes.values()),
        points=tuple(_points(findings)),
        reached=tuple(_reached(findings)),
        gains=findings.paired_gains if findings.kept else (0.0,) * len(findings.scores(findings.base)),
        final=findings.final,
    )


def differing_facts(runs: Sequence[Compared], names: Sequence[str]) -> dict[str, list[str]]:
    """The facts of these names in which runs differ, with the value of each run."""
    values = {name: [run.facts.get(name, "?") for run in runs] for name in names}
    return {name: row for name, row in values.items() if len(set(row)) > 1}


def comparability(runs: Sequence[Compared]) -> str:
    other = f" Other differences: {', '.join(names)}." if (names := differing_facts(runs, MAY_DIFFER)) else ""
    if found := differing_facts(runs, MUST_MATCH):
        return (
            f"Not comparable: the runs differ in {', '.join(found)}, so their scores measure different things.{other}"
        )
    return (
        f"Comparable: the runs have the same {', '.join(MUST_MATCH[:-1])} and {MUST_MATCH[-1]}.{other} "
        "Validation scores of winners are overestimated, more so after more tries. Only a final evaluation supports a "
        "claim."
    )


def comparison_values(runs: Sequence[Compared]) -> dict[str, Any]:
    rows = []
    for run in runs:
        base, winner = next((point for point in run.points if point.role == "base"), None), run.winner
        row = {**asdict(run), "needed": run.needed, "gain": run.gain}
        row["base"], row["winner"] = base and asdict(base), winner and asdict(winner)
        row["final"] = run.final and {**row["final"], "verdict": run.final.verdict}
        rows.append(row)
    return {
        "comparable": not differing_facts(runs, MUST_MATCH),
        "differences": differing_facts(runs, MUST_MATCH),
        "other_differences": differing_facts(runs, MAY_DIFFER),
        "runs": rows,
    }


def _points(findings: Findings) -> list[ScoredNetwork]:
    scores: dict[str, list[float]] = {}
    for key, outcome in findings.history.outcomes.items():
        if isinstance(outcome, Score):
            scores.setdefault(candidate_id(key), []).append(findings.objective.value(outcome))
    means = {key: fmean(values) for key, values in scores.items()}
    paired = zip((findings.base, findings.winner), findings.paired_scores(findings.winner), strict=True)
    means |= {fingerprint(network): fmean(values.values()) for network, values in paired if values}
    base, points = fingerprint(findings.base), {}
    if base in means and (cost := findings.cost(findings.base)):
        points[base] = ScoredNetwork(
            layout=layout(findings.base), role="base", params=cost[0], macs=cost[1], score=means[base]
        )
    for decision in findings.decisions:
        own = decision.candidate
        if own in means and decision.params is not None and decision.macs is not None:
            points[own] = ScoredNetwork(
                layout=decision.layout,
                role="winner" if own == findings.winner_id else "kept" if decision.kept else "dropped",
                params=decision.params,
                macs=decision.macs,
                score=means[own],
            )
    return list(points.values())


def _reached(findings: Findings) -> list[BestSoFar]:
    """The best score after the base and after each verdict, from the scores that the verdicts used."""
    own, scores = fingerprint(findings.base), findings.scores(findings.base)
    if not scores:
        return []
    # The first candidates may be dropped untrained. Their decisions hold no scores of the base.
    base_scores = next((one.parent_scores for one in findings.decisions if one.parent_scores), tuple(scores.values()))
    asked = {own: len(base_scores)}
    rows = [BestSoFar(trainings=asked[own], score=fmean(base_scores))]
    for decision in findings.decisions:
        for network in (decision.candidate, decision.parent):
            asked[network] = max(asked.get(network, 0), decision.seeds)
        best = fmean(decision.scores) if decision.kept else rows[-1].score
        rows.append(BestSoFar(trainings=sum(asked.values()), score=best))
    return rows


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
    """Networks that could change blocks anywhere, and the rank correlation of place and score within runs."""

    networks: Sequence[PlacedNetwork]
    agreement: Agreement | None
    """Positive if later places are better. None where no run has two networks."""

    @property
    def words(self) -> str:
        if self.agreement is None:
            return "No run with --places any has two networks yet, so nothing can be said about places."
        found = self.agreement
        numbers = (
            f"Kendall's tau of place and score {found.tau:+.2f} (95 % interval {found.low:+.2f} to {found.high:+.2f}, "
            f"p = {found.p:.2g}, {found.count} networks that were free to change blocks anywhere in a stage)"
        )
        if found.p >= SIGNIFICANCE:
            return f"These runs do not tell whether the end of a stage or its beginning is the better place: {numbers}."
        if found.tau > 0:
            return f"Later places in a stage are better, as the paper says: {numbers}."
        return f"Earlier places in a stage are better, against the paper: {numbers}."


def find_places(runs: Sequence[Compared]) -> PlaceFindings | None:
    """Whether the end of a stage is the right place, by the networks of runs with `--places any`; None without any.

    The build-up rule only tries places from the end of a stage. These runs change as many blocks, but anywhere, so
    their scores can say whether later places are better.
    """
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
