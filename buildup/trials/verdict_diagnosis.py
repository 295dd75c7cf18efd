"""Why a verdict may have fallen as it did: parent and candidate measured side by side at the place of the edit."""

from collections.abc import Mapping
from dataclasses import dataclass
from statistics import fmean
from typing import Any

MEASURES = {
    "lesion": "lesion cost",
    "variance": "variance ratio",
    "frequency": "frequency gain",
    "top": "top eigenvalue",
    "ape": "APE",
    "nep": "NEP",
}
"""What is measured, by the name that files use and by the one for people."""

Values = Mapping[str, tuple[float | None, ...]]
"""By measure, a value a seed; None where a network has no such value."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Diagnosis:
    """The measurements of one verdict: one line of `diagnostics.jsonl`."""

    step: int
    candidate: str
    parent: str
    edit: str
    seeds: tuple[int, ...]
    """Those of whose trainings the values are, in their order."""
    before: Values
    """Of the parent, with the block that the edit replaces: known before the candidate is trained."""
    after: Values
    """Of the candidate, with the block that stands there then."""
    measured_on: Mapping[str, Any]
    """Images, batches and draws. Values of others can't be compared with these."""

    def mean(self, when: str, measure: str) -> float | None:
        """The mean over the seeds of what was measured `before`, `after`, or of the `change` between them."""
        if when == "change":
            before, after = self.mean("before", measure), self.mean("after", measure)
            return None if before is None or after is None else after - before
        values = (self.before if when == "before" else self.after).get(measure, ())
        known = [value for value in values if value is not None]
        return fmean(known) if known and len(known) == len(values) else None


def diagnosis_to_values(diagnosis: Diagnosis) -> dict[str, Any]:
    """A diagnosis, ready for JSON, with the means for those who read the file."""
    measured = [measure for measure in MEASURES if measure in diagnosis.before]
    return {
        "step": diagnosis.step,
        "candidate": diagnosis.candidate,
        "parent": diagnosis.parent,
        "edit": diagnosis.edit,
        "seeds": list(diagnosis.seeds),
        "before": {measure: diagnosis.mean("before", measure) for measure in measured},
        "after": {measure: diagnosis.mean("after", measure) for measure in measured},
        "by_seed": {
            "before": {measure: list(diagnosis.before[measure]) for measure in measured},
            "after": {measure: list(diagnosis.after[measure]) for measure in measured},
        },
        "measured_on": dict(diagnosis.measured_on),
    }


def diagnosis_from_values(values: Mapping[str, Any]) -> Diagnosis:
    """The diagnosis that `diagnosis_to_values` wrote down."""
    before, after = (
        {str(measure): tuple(row) for measure, row in values["by_seed"][when].items()} for when in ("before", "after")
    )
    return Diagnosis(
        step=values["step"],
        candidate=values["candidate"],
        parent=values["parent"],
        edit=values["edit"],
        seeds=tuple(values["seeds"]),
        before=before,
        after=after,
        measured_on=values["measured_on"],
    )
