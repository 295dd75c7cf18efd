"""Correlations between diagnostics and gains: measured verdicts, rank correlations, and what they show.

Diagnostics of the parent are known before a candidate is trained, so a correlation with them would be a prediction.
The change from parent to candidate is known only together with the gain. It can explain a gain but not predict it.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from buildup.errors import percent
from buildup.report.text_table import ColumnKind, TextTable
from buildup.report.words import edited_paths, gain_text, has_failed, interval_heading, interval_text
from buildup.trials.decision import MEASURES, Decision, Diagnosis

When = Literal["before", "change"]

LEVEL, SIGNIFICANCE = 0.95, 0.05
EXPECTED = {"variance": -1, "frequency": -1, "ape": -1, "nep": 1, "early_ape": -1, "early_nep": 1}
"""The diagnostics that the paper says attention lowers (-1) or raises (1): less variance and high frequency, a flatter
loss, which is less convex."""
ORDER = "step"
"""Not a diagnostic but the number of the step. A diagnostic must correlate with the gain more strongly than this,
because it may only reflect the position of a block."""
DIGITS = {"lesion": 1, "variance": 2, "frequency": 2, "top": 1, "ape": 1, "nep": 2, "early_ape": 1, "early_nep": 2}
EXPLAINED = (
    "Lesion cost: accuracy lost without the block, in points. Variance ratio: spatial variance of the block's output "
    "divided by that of its input. Frequency gain: increase of the log amplitude at the highest frequency; maps "
    "smaller than 3 x 3 have none. Top eigenvalue: largest Hessian eigenvalue of a batch, averaged over batches. APE "
    "and NEP: mean of the positive and share of the negative ones among the five largest eigenvalues, "
    "at the end or after the warm-up. All values are means over seeds."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasuredVerdict:
    """A verdict with the diagnostics of its parent and candidate."""

    run: str
    decision: Decision
    diagnosis: Diagnosis

    def value(self, measure: str, when: When) -> float | None:
        """A diagnostic; None where the verdict lacks it or has no measured gain."""
        if has_failed(self.decision) or not self.decision.seeds:
            return None
        return float(self.decision.step) if measure == ORDER else self.diagnosis.mean(when, measure)


@dataclass(frozen=True, slots=True, kw_only=True)
class Correlation:
    """The rank correlation of a diagnostic with the gains, within runs."""

    measure: str
    when: When
    count: int
    """Number of verdicts that have at least one other of their run to be compared with."""
    tau: float
    """Kendall's tau, with its 95 % interval."""
    low: float
    high: float
    p: float
    least_p: float
    """The p-value of perfect agreement between this many verdicts."""

    @property
    def name(self) -> str:
        if self.measure == ORDER:
            return "order of the tries"
        name = MEASURES[self.measure]
        return f"{name} of the parent" if self.when == "before" else f"change of {name}"

    @property
    def numbers(self) -> str:
        return f"tau {self.tau:+.2f} ({percent(LEVEL)} interval {self.low:+.2f} to {self.high:+.2f})"


@dataclass(frozen=True, slots=True, kw_only=True)
class Effect:
    """How often a diagnostic changes from parent to candidate as the paper says, whatever the gain."""

    measure: str
    as_expected: int
    count: int
    """Verdicts in which it changes at all."""
    low: float
    """The share as expected has this exact 95 % interval."""
    high: float

    @property
    def words(self) -> str:
        direction = "falls" if EXPECTED[self.measure] < 0 else "rises"
        agrees = self.low > 0.5
        answer = "as the paper says" if agrees else "against the paper" if self.high < 0.5 else "which decides nothing"
        return (
            f"{MEASURES[self.measure]} {direction} in {self.as_expected} of {self.count} verdicts, {answer} "
            f"({percent(LEVEL)} interval of the share {100 * self.low:.0f} to {100 * self.high:.0f} %)"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """Measured verdicts of one or several runs, and the correlations of their diagnostics with the gains."""

    rows: Sequence[MeasuredVerdict]
    correlations: Sequence[Correlation]
    effects: Sequence[Effect] = ()

    @property
    def words(self) -> tuple[str, ...]:
        runs = len({row.run for row in self.rows})
        several = f" of {runs} runs" if runs > 1 else ""
        measured = f"{len(self.rows)} verdict{'s' if len(self.rows) != 1 else ''}{several} measured."
        if not any(one.when == "before" and one.measure != ORDER for one in self.correlations):
            needed = f"{measured} A correlation needs at least two verdicts of one run without failed trainings."
            return (needed, *self._effects())
        least = min(one.least_p for one in self.correlations)
        if least >= SIGNIFICANCE:
            measured += f" This is too few for a significant result: even perfect agreement has p = {least:.2g}."
        return (
            measured,
            self._conclusion("before"),
            self._conclusion("change"),
            *self._flattening(),
            *self._effects(),
            "Verdicts of one search are not independent: they share parents and go from the last stage to the first. "
            "All intervals here are therefore too narrow.",
        )

    def _flattening(self) -> Iterator[str]:
        """Whether candidates whose loss is flatter than their parent's gain more."""
        for one in self.correlations:
            if one.when == "change" and one.measure in ("ape", "early_ape"):
                answer = "It is not shown that flattening goes with the gain"
                if one.p < SIGNIFICANCE:
                    answer = (
                        f"Candidates that are {'flatter' if one.tau < 0 else 'sharper'} than their parent gain more"
                    )
                yield f"{answer}: {one.name} and gain have {one.numbers}. This diagnostic alone, without correction."

    def _effects(self) -> Iterator[str]:
        if self.effects:
            yield f"From parent to candidate, {'; '.join(one.words for one in self.effects)}."

    def _conclusion(self, when: When) -> str:
        """Whether any diagnostic of one kind correlates with the gain, corrected for their number."""
        found = [one for one in self.correlations if one.when == when and one.measure != ORDER]
        best = min(found, key=lambda one: (one.p, -abs(one.tau)))
        corrected = min(1.0, best.p * len(found))
        known = "known before training" if when == "before" else "known only after training"
        after = f"or {corrected:.2g} after Bonferroni correction for {len(found)}"
        numbers = f"{best.numbers}, p = {best.p:.2g}, {after}"
        relation = "predicts the gain" if when == "before" else "correlates with the gain"
        if corrected >= SIGNIFICANCE:
            none = f"None of {len(found)} diagnostics {known} {relation} significantly."
            return f"{none} Smallest p-value: {best.name}, {numbers}."
        value = "larger" if best.tau > 0 else "smaller"
        conclusion = (
            f"Of {len(found)} diagnostics {known}, {best.name} {relation}. A {value} value goes with a larger gain: "
            f"{numbers}."
        )
        order = next((one for one in self.correlations if one.measure == ORDER), None)
        if order and abs(order.tau) >= abs(best.tau):
            return f"{conclusion} But the order of the tries alone correlates as strongly (tau {order.tau:+.2f})."
        return conclusion


def tabulate_diagnoses(rows: Sequence[MeasuredVerdict]) -> TextTable:
    """One row per verdict, each diagnostic as `parent → candidate`."""
    decisions = [row.decision for row in rows]
    measured = [measure for measure in MEASURES if any(measure in row.diagnosis.before for row in rows)]
    heading, with_level = interval_heading(decisions)
    columns: list[tuple[str, ColumnKind, list[str]]] = [
        ("run", "layout", [row.run for row in rows]),
        ("step", "number", [str(one.step) for one in decisions]),
        ("place", "layout", [edited_paths(one.edit) for one in decisions]),
        ("verdict", "verdict", [one.verdict for one in decisions]),
        ("gain", "number", [gain_text(one) for one in decisions]),
    ]
    if len({row.run for row in rows}) <= 1:
        del columns[0]
    # The judge `point` gives no intervals.
    if any(one.level for one in decisions):
        columns.append((heading, "number", [interval_text(one, with_level=with_level) for one in decisions]))

    def shown(value: float | None, digits: int) -> str:
        return "–" if value is None else f"{value:.{0 if abs(value) >= 100 else digits}f}"

    for measure in measured:
        values = ([row.diagnosis.mean(when, measure) for when in ("before", "after")] for row in rows)
        changes = [" → ".join(shown(value, DIGITS[measure]) for value in both) for both in values]
        columns.append((MEASURES[measure], "number", changes))
    return TextTable.by_column(*columns)


def tabulate_correlations(evidence: Evidence) -> TextTable:
    found = evidence.correlations
    return TextTable.by_column(
        ("diagnostic", "text", [one.name for one in found]),
        ("known", "text", ["before training" if one.when == "before" else "after training" for one in found]),
        ("verdicts", "number", [str(one.count) for one in found]),
        ("tau", "number", [f"{one.tau:+.2f}" for one in found]),
        (f"{percent(LEVEL)} interval", "number", [f"{one.low:+.2f} to {one.high:+.2f}" for one in found]),
        ("p", "number", [f"{one.p:.2g}" for one in found]),
    )


def evidence_text(evidence: Evidence) -> str:
    correlations = [tabulate_correlations(evidence).text()] if evidence.correlations else []
    return "\n\n".join([tabulate_diagnoses(evidence.rows).text(), EXPLAINED, *correlations, *evidence.words])
