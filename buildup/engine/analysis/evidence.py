"""Rank correlations between the diagnostics of verdicts and their gains, within runs."""

from collections.abc import Mapping, Sequence
from itertools import chain

from buildup.report.diagnostic_table import Correlation, Evidence, MeasuredVerdict, When
from buildup.statistics.kendall import kendall
from buildup.trials.decision import MEASURES, Decision, Diagnosis

Runs = Mapping[str, tuple[Sequence[Decision], Sequence[Diagnosis]]]
"""The decisions and the measured verdicts by name of the run."""


def evidence_of(runs: Runs) -> Evidence:
    """The measured verdicts, and the rank correlation of each diagnostic with their gains.

    Verdicts are compared only within their run, because gains differ from base to base.
    """
    rows = tuple(
        MeasuredVerdict(run=name, decision=decision, diagnosis=diagnosis)
        for name, (decisions, diagnoses) in runs.items()
        for diagnosis in diagnoses
        for decision in decisions
        if decision.step == diagnosis.step
    )
    whens: tuple[When, ...] = ("before", "change")
    measured = [(measure, when) for when in whens for measure in MEASURES]
    found = (_correlation(rows, measure, when) for measure, when in [("step", "before"), *measured])
    return Evidence(rows=rows, correlations=tuple(one for one in found if one))


def _correlation(rows: Sequence[MeasuredVerdict], measure: str, when: When) -> Correlation | None:
    """The correlation of one diagnostic with the gains; None where no run has two verdicts with it."""
    known = [(row.run, value, row.decision.gain) for row in rows if (value := row.value(measure, when)) is not None]
    groups, values, gains = zip(*known, strict=True) if known else ((), (), ())
    if len(set(groups)) == len(groups):
        return None
    found = kendall(values, gains, groups=groups)
    ordered = list(chain.from_iterable(range(groups.count(name)) for name in dict.fromkeys(groups)))
    return Correlation(
        measure=measure,
        when=when,
        count=found.count,
        tau=found.tau,
        low=found.low,
        high=found.high,
        p=found.p,
        least_p=kendall(ordered, ordered, groups=sorted(groups, key=list(dict.fromkeys(groups)).index)).p,
    )
