"""Which diagnostic goes with a gain: measured verdicts and correlations as rows, and what they allow to say.

Known before a candidate is trained is only what was measured of its parent; a correlation with that would be a
prediction. The change from parent to candidate is known when the gain is, and could explain it at most.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from buildup.report.text_table import aligned
from buildup.report.words import gain, has_failed, interval, interval_heading, percent, places
from buildup.trials.decision import Decision
from buildup.trials.verdict_diagnosis import MEASURES, Diagnosis

When = Literal["before", "change"]

LEVEL, MOST_CHANCE = 0.95, 0.05
ORDER = "step"
"""Not a diagnostic: the number of the try, which every diagnostic must beat that only mirrors where a block stands."""
DIGITS = {"lesion": 1, "variance": 2, "frequency": 2, "top": 1, "ape": 1, "nep": 2}
EXPLAINED = (
    "Lesion cost: points of accuracy lost without the block. Variance ratio: spatial variance of what the block gives "
    "out over that of what it takes. Frequency gain: by how much it raises the log amplitude of the highest frequency, "
    "which maps of less than 3 x 3 lack. Top eigenvalue: the largest of a batch's Hessian, the mean over batches; APE "
    "and NEP: mean of the positive ones and share of the negative ones of the five largest. All are means over seeds."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One verdict that was measured."""

    run: str
    decision: Decision
    diagnosis: Diagnosis

    def value(self, measure: str, when: When) -> float | None:
        """A diagnostic, where the verdict has both it and a gain."""
        if has_failed(self.decision) or not self.decision.seeds:
            return None
        return float(self.decision.step) if measure == ORDER else self.diagnosis.mean(when, measure)


@dataclass(frozen=True, slots=True, kw_only=True)
class Correlation:
    """How far a diagnostic puts the verdicts of a run into the order of their gains."""

    measure: str
    when: When
    count: int
    """Verdicts that were compared with another one."""
    tau: float
    """Kendall's, with its interval at 95 %."""
    low: float
    high: float
    p: float
    least_p: float
    """The p of perfect agreement of so many verdicts."""

    @property
    def name(self) -> str:
        """What people call it."""
        if self.measure == ORDER:
            return "order of the tries"
        name = MEASURES[self.measure]
        return f"{name} of the parent" if self.when == "before" else f"change of {name}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """Verdicts side by side, and what goes with their gains."""

    rows: Sequence[Row]
    correlations: Sequence[Correlation]

    def told(self, when: When) -> list[Correlation]:
        """The correlations of diagnostics, without that of the mere order of the tries."""
        return [one for one in self.correlations if one.when == when and one.measure != ORDER]

    @property
    def words(self) -> tuple[str, ...]:
        """What can be said and what cannot, in plain words."""
        runs = len({row.run for row in self.rows})
        several = f" of {runs} runs" if runs > 1 else ""
        said = f"{len(self.rows)} verdict{'s' if len(self.rows) != 1 else ''}{several} measured."
        if not self.told("before"):
            return (f"{said} A correlation takes two verdicts of a run whose trainings all have a score.",)
        least = min(one.least_p for one in self.correlations)
        if least >= MOST_CHANCE:
            said += f" So few can prove nothing: even equal orders come by chance, with p = {least:.2g}."
        return (
            said,
            self._verdict("before"),
            self._verdict("change"),
            "Verdicts of one search share parents and go from the last stage to the first, so they tell less than as "
            "many independent ones, and every interval here is rather too narrow.",
        )

    def _verdict(self, when: When) -> str:
        """What one kind of diagnostics comes to; that several were looked at counts."""
        found = self.told(when)
        best = min(found, key=lambda one: (one.p, -abs(one.tau)))
        chance = min(1.0, best.p * len(found))
        known = "known before training" if when == "before" else "that need the trained candidate"
        numbers = (
            f"tau {best.tau:+.2f} ({percent(LEVEL)} interval {best.low:+.2f} to {best.high:+.2f}), p = {best.p:.2g}, "
            f"and {chance:.2g} as the best of {len(found)}"
        )
        what = "predicts" if when == "before" else "goes with"
        if chance >= MOST_CHANCE:
            none = f"None of {len(found)} diagnostics {known} {what} the gain beyond chance."
            return f"{none} Nearest: {best.name}, {numbers}."
        where = "larger" if best.tau > 0 else "smaller"
        head = (
            f"Of {len(found)} diagnostics {known}, {best.name} {what} the gain, larger where it is {where}: {numbers}."
        )
        order = next((one for one in self.correlations if one.measure == ORDER), None)
        if order and abs(order.tau) >= abs(best.tau):
            return f"{head} But the mere order of the tries tells as much (tau {order.tau:+.2f})."
        return head


def diagnosis_rows(rows: Sequence[Row]) -> list[list[str]]:
    """The verdicts as a table, its head first: what was measured of the parent, and then of the candidate."""
    measured = [measure for measure in MEASURES if any(measure in row.diagnosis.before for row in rows)]
    runs = ["run"] if len({row.run for row in rows}) > 1 else []
    heading, with_level = interval_heading([row.decision for row in rows])
    headings = [heading] if any(row.decision.level for row in rows) else []  # judge point gives no interval
    table = [[*runs, "step", "place", "verdict", "gain", *headings, *(MEASURES[measure] for measure in measured)]]
    for row in rows:
        decision, name = row.decision, [row.run] if runs else []
        ends = [interval(decision, with_level=with_level)] if headings else []
        cells = [*name, str(decision.step), places(decision.edit), decision.verdict, gain(decision), *ends]
        table.append([*cells, *(_sides(row.diagnosis, measure) for measure in measured)])
    return table


def correlation_rows(evidence: Evidence) -> list[list[str]]:
    """The correlations as a table, its head first."""
    table = [["diagnostic", "known", "verdicts", "tau", f"{percent(LEVEL)} interval", "p"]]
    for one in evidence.correlations:
        known = "before training" if one.when == "before" else "after training"
        ends = f"{one.low:+.2f} to {one.high:+.2f}"
        table.append([one.name, known, str(one.count), f"{one.tau:+.2f}", ends, f"{one.p:.2g}"])
    return table


def evidence_text(evidence: Evidence) -> str:
    """All of it for a terminal."""
    verdicts, found = diagnosis_rows(evidence.rows), correlation_rows(evidence)
    parts = ["\n".join(aligned(verdicts, right=_numbers(verdicts))), EXPLAINED]
    parts += ["\n".join(aligned(found, right={2, 3, 4, 5}))] if len(found) > 1 else []
    return "\n\n".join([*parts, *evidence.words])


def _numbers(table: Sequence[Sequence[str]]) -> set[int]:
    """The columns of numbers."""
    return {index for index, name in enumerate(table[0]) if name not in ("run", "place", "verdict")}


def _sides(diagnosis: Diagnosis, measure: str) -> str:
    before, after = (_shown(diagnosis.mean(when, measure), measure) for when in ("before", "after"))
    return f"{before} → {after}"


def _shown(value: float | None, measure: str) -> str:
    return "–" if value is None else f"{value:.{0 if abs(value) >= 100 else DIGITS[measure]}f}"
