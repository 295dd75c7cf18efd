"""Verdicts on candidates, the decisions that record them, and what belongs to them: summaries and measurements."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from statistics import fmean
from typing import Any, Literal

Keep = Literal["keep", "drop"]

MEASURES = {
    "lesion": "lesion cost",
    "variance": "variance ratio",
    "frequency": "frequency gain",
    "top": "top eigenvalue",
    "ape": "APE",
    "nep": "NEP",
    "early_ape": "APE after the warm-up",
    "early_nep": "NEP after the warm-up",
}
"""The measures of a diagnosis: their names in files, and those in reports."""

Values = Mapping[str, tuple[float | None, ...]]
"""By measure, one value per seed; None where a network has no such value."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What a judge decides on a candidate, always with a reason."""

    verdict: Keep
    gain: float
    """Mean gain over the parent; positive is better."""
    ci: tuple[float, float]
    """Interval of the gain at `level`. A candidate is kept if and only if all of it is above the least gain."""
    level: float
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """A verdict with its place in the search: one line of `decisions.jsonl`."""

    step: int
    candidate: str
    parent: str
    edit: str
    layout: str
    scores: tuple[float, ...]
    parent_scores: tuple[float, ...]
    gain: float
    ci: tuple[float, float]
    verdict: Keep
    reason: str
    judge: str
    level: float
    looks: int
    """Number of looks at its seeds."""
    seeds: int
    params: int | None = None
    macs: int | None = None
    objective: str = "accuracy"
    unit: str = "points"

    @property
    def kept(self) -> bool:
        return self.verdict == "keep"


@dataclass(frozen=True, slots=True, kw_only=True)
class CandidateSummary:
    """The trainings of one candidate taken together, and the decision on it."""

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
        return fmean(self.accuracies.values()) if self.accuracies else None

    @property
    def kept(self) -> bool:
        """Whether the search went on from it: the base, and each kept candidate."""
        return self.parent is None or (self.decision is not None and self.decision.kept)


@dataclass(frozen=True, slots=True, kw_only=True)
class Diagnosis:
    """Parent and candidate measured at the place of the edit: one line of `diagnostics.jsonl`."""

    step: int
    candidate: str
    parent: str
    edit: str
    seeds: tuple[int, ...]
    """The seeds of the measured trainings, in the order of the values."""
    before: Values
    """Measures of the parent, at the block that the edit replaces."""
    after: Values
    """Measures of the candidate, at the new block."""
    measured_on: Mapping[str, Any]
    """Images, batches and draws. Only values with the same ones can be compared."""

    def mean(self, when: str, measure: str) -> float | None:
        """The mean over the seeds of a measure `before`, `after` or its `change`; None unless all seeds have it."""
        if when == "change":
            before, after = self.mean("before", measure), self.mean("after", measure)
            return None if before is None or after is None else after - before
        values = (self.before if when == "before" else self.after).get(measure, ())
        known = [value for value in values if value is not None]
        return fmean(known) if known and len(known) == len(values) else None


def decision_to_values(decision: Decision) -> dict[str, Any]:
    return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(decision).items()}


def decision_from_values(values: dict[str, Any]) -> Decision:
    # Version 0.1.0 wrote an epoch, too.
    settings: dict[str, Any] = {
        key: tuple(value) if isinstance(value, list) else value for key, value in values.items()
    }
    settings.pop("epoch", None)
    return Decision(**settings)


def diagnosis_to_values(diagnosis: Diagnosis) -> dict[str, Any]:
    """A diagnosis, ready for JSON, with the means for readers of the file."""
    measured = [measure for measure in MEASURES if measure in diagnosis.before]
    values = {"before": diagnosis.before, "after": diagnosis.after}
    return {
        "step": diagnosis.step,
        "candidate": diagnosis.candidate,
        "parent": diagnosis.parent,
        "edit": diagnosis.edit,
        "seeds": list(diagnosis.seeds),
        **{when: {measure: diagnosis.mean(when, measure) for measure in measured} for when in values},
        "by_seed": {when: {measure: list(rows[measure]) for measure in measured} for when, rows in values.items()},
        "measured_on": dict(diagnosis.measured_on),
    }


def diagnosis_from_values(values: Mapping[str, Any]) -> Diagnosis:
    by_seed = {when: {measure: tuple(row) for measure, row in rows.items()} for when, rows in values["by_seed"].items()}
    plain = {name: values[name] for name in ("step", "candidate", "parent", "edit", "measured_on")}
    return Diagnosis(**plain, before=by_seed["before"], after=by_seed["after"], seeds=tuple(values["seeds"]))
