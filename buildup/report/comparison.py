"""Several searches side by side: what each found and spent, and whether they may be compared at all."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import fmean
from typing import Any, Literal

from buildup.graph.fingerprint import fingerprint
from buildup.graph.layout import layout
from buildup.report.findings import Findings
from buildup.trials.final_result import Final
from buildup.trials.outcome import Score
from buildup.trials.training import candidate_id

SAME = (
    "base",
    "stem",
    "dataset",
    "data hash",
    "validation images",
    "recipe",
    "epochs",
    "fraction",
    "objective",
    "start",
    "precision",
)
"""What must be equal for the scores of two runs to mean the same."""
TOLD = ("space", "judge", "seeds", "first seed", "steps", "device", "torch")
"""What may differ, and is told where it does: what was tried and how sure a verdict is, or the last digits of sums."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """A network that was trained, as a point of cost and score."""

    layout: str
    role: Literal["base", "winner", "kept", "dropped"]
    params: int
    macs: int
    score: float
    """The mean over its seeds, in the unit of the objective."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reached:
    """The best so far after some trainings."""

    trainings: int
    """That the verdicts up to here stand on; what was trained ahead in vain is not counted."""
    score: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Compared:
    """One run of a comparison."""

    run: str
    strategy: str
    judge: str
    finished: str
    facts: Mapping[str, str]
    """The values of `SAME` and of `TOLD`."""
    objective: str
    verdicts: int
    kept: int
    trainings: int
    """All that ended with a score or a failure."""
    reused: int
    """Those of them that another run had trained."""
    seconds: float
    """Of all its trainings together."""
    points: tuple[Point, ...]
    reached: tuple[Reached, ...]
    gains: tuple[float, ...]
    """By how much the winner is better than the base, for each seed that both have."""
    final: Final | None

    @property
    def base(self) -> Point | None:
        """Where it started; None before it is trained."""
        return next((point for point in self.points if point.role == "base"), None)

    @property
    def winner(self) -> Point | None:
        """What it came to, which may be the base."""
        return next((point for point in self.points if point.role == "winner"), self.base)

    @property
    def needed(self) -> int:
        """The trainings that its verdicts stand on."""
        return self.reached[-1].trainings if self.reached else 0

    @property
    def gain(self) -> float | None:
        """The mean of the gains; None without any."""
        return fmean(self.gains) if self.gains else None


def compared(findings: Findings, facts: Mapping[str, str]) -> Compared:
    """A run as it stands in a comparison."""
    objective = findings.objective
    scores: dict[str, list[float]] = {}
    for key, outcome in findings.history.outcomes.items():
        if isinstance(outcome, Score):
            scores.setdefault(candidate_id(key), []).append(objective.value(outcome))
    return Compared(
        run=findings.run,
        strategy=str(findings.settings.get("strategy", "")),
        judge=str(findings.settings.get("judge", "")),
        finished=findings.finished,
        facts=facts,
        objective=objective.name,
        verdicts=len(findings.decisions),
        kept=len(findings.kept),
        trainings=len(findings.history.outcomes),
        reused=len(findings.reused),
        seconds=sum(outcome.seconds for outcome in findings.history.outcomes.values()),
        points=tuple(_points(findings, {key: fmean(values) for key, values in scores.items()})),
        reached=tuple(_reached(findings)),
        gains=findings.paired_gains if findings.kept else (0.0,) * len(findings.scores(findings.base)),
        final=findings.final,
    )


def differences(runs: Sequence[Compared]) -> dict[str, list[str]]:
    """In what the runs differ that must be equal, with the value of each."""
    return _unequal(runs, SAME)


def other_differences(runs: Sequence[Compared]) -> dict[str, list[str]]:
    """In what else the runs differ, with the value of each."""
    return _unequal(runs, TOLD)


def comparable(runs: Sequence[Compared]) -> str:
    """Whether the scores may be compared, as a sentence."""
    besides = f" Besides, they differ in {', '.join(other)}." if (other := other_differences(runs)) else ""
    if not (found := differences(runs)):
        return (
            "Comparable: same base and stem, data, validation images, recipe, epochs, share of the data and precision."
            f"{besides} The validation scores of winners are flattered, the more so the more was tried; "
            "only a final is a claim."
        )
    return f"Not comparable: they differ in {', '.join(found)}, so their scores do not mean the same.{besides}"


def comparison_values(runs: Sequence[Compared]) -> dict[str, Any]:
    """A comparison, ready for JSON."""
    rows = []
    for run in runs:
        base, winner = run.base, run.winner
        row = {**asdict(run), "needed": run.needed, "gain": run.gain}
        row["base"], row["winner"] = base and asdict(base), winner and asdict(winner)
        row["final"] = run.final and {**row["final"], "verdict": run.final.verdict}
        rows.append(row)
    return {
        "comparable": not differences(runs),
        "differences": differences(runs),
        "other_differences": other_differences(runs),
        "runs": rows,
    }


def _unequal(runs: Sequence[Compared], names: Sequence[str]) -> dict[str, list[str]]:
    values = {name: [run.facts.get(name, "?") for run in runs] for name in names}
    return {name: row for name, row in values.items() if len(set(row)) > 1}


def _points(findings: Findings, means: Mapping[str, float]) -> list[Point]:
    points = {}
    base, winner = fingerprint(findings.base), findings.winner_id
    if base in means and (cost := findings.cost(findings.base)):
        points[base] = Point(layout=layout(findings.base), role="base", params=cost[0], macs=cost[1], score=means[base])
    for decision in findings.decisions:
        own = decision.candidate
        if own in means and decision.params is not None and decision.macs is not None:
            points[own] = Point(
                layout=decision.layout,
                role="winner" if own == winner else "kept" if decision.kept else "dropped",
                params=decision.params,
                macs=decision.macs,
                score=means[own],
            )
    return list(points.values())


def _reached(findings: Findings) -> list[Reached]:
    """The best after the base and after each verdict, by the scores that the verdicts stand on."""
    own, scores = fingerprint(findings.base), findings.scores(findings.base)
    if not scores:
        return []
    # Candidates may be dropped untrained before anything is compared with the base, which is trained all the same.
    base_scores = next((one.parent_scores for one in findings.decisions if one.parent_scores), tuple(scores.values()))
    asked = {own: len(base_scores)}
    rows = [Reached(trainings=asked[own], score=fmean(base_scores))]
    for decision in findings.decisions:
        for network in (decision.candidate, decision.parent):
            asked[network] = max(asked.get(network, 0), decision.seeds)
        best = fmean(decision.scores) if decision.kept else rows[-1].score
        rows.append(Reached(trainings=sum(asked.values()), score=best))
    return rows
