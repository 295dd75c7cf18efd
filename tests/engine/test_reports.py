"""What diagnostics say of gains: a prediction is told only where chance, and the mere order of the tries, do less."""

from collections.abc import Sequence
from dataclasses import replace

import pytest
from scipy.stats import binomtest

from buildup.engine.reports import evidence_of
from buildup.report.diagnostic_table import Evidence, evidence_text, tabulate_diagnoses
from buildup.report.page import evidence_html, evidence_markdown
from buildup.statistics.distributions import share_interval
from buildup.trials.decision import Decision, Diagnosis, diagnosis_from_values, diagnosis_to_values

SHUFFLED = (0.3, 1.1, -0.4, 0.9, -1.0, 0.2, 0.7, -0.1, 0.5)
"""Gains in an order that is neither rising nor falling."""


def decision(step: int, gain: float, *, scores: int = 2, edit: str = "") -> Decision:
    return Decision(
        step=step,
        candidate=f"c{step}",
        parent="p",
        edit=edit or f"layer{step}.1: conv -> msa(heads=3, window=4)",
        layout="CM",
        scores=(80.0 + gain,) * scores,
        parent_scores=(80.0,) * scores,
        gain=gain,
        ci=(gain - 1, gain + 1),
        verdict="keep" if gain > 0 else "drop",
        reason="because",
        judge="likely",
        level=0.6,
        looks=1,
        seeds=2,
    )


def diagnosis(step: int, before: float | None, after: float | None, *, edit: str = "") -> Diagnosis:
    return Diagnosis(
        step=step,
        candidate=f"c{step}",
        parent="p",
        edit=edit or f"layer{step}.1: conv -> msa(heads=3, window=4)",
        seeds=(0, 1),
        before={"lesion": (before, before), "variance": (1.0, 1.0)},
        after={"lesion": (after, after), "variance": (0.5, 0.5)},
        measured_on={},
    )


def evidence(gains: Sequence[float], before: Sequence[float | None]) -> Evidence:
    decisions = [decision(step, gain) for step, gain in enumerate(gains, start=1)]
    found = [diagnosis(step, value, 1.0) for step, value in enumerate(before, start=1)]
    return evidence_of({"run": (decisions, found)})


def test_a_diagnostic_that_puts_all_verdicts_in_order_predicts() -> None:
    found = evidence(SHUFFLED, [-gain for gain in SHUFFLED])
    lesion = next(one for one in found.correlations if one.measure == "lesion" and one.when == "before")
    assert (lesion.tau, lesion.count) == (-1.0, 9)
    assert lesion.p == lesion.least_p
    assert "lesion cost of the parent predicts the gain. A smaller value goes with a larger gain" in " ".join(
        found.words
    )


def test_a_diagnostic_that_only_mirrors_the_order_of_the_tries_is_told_as_that() -> None:
    found = evidence(range(9), range(9))
    assert "the order of the tries alone correlates as strongly" in " ".join(found.words)


def test_chance_is_told_as_chance_and_looking_at_several_counts() -> None:
    found = evidence((1.0, 2.0, 4.0, 3.0), (1.0, 2.0, 3.0, 4.0))
    said = " ".join(found.words)
    assert "too few for a significant result" in said
    assert "None of 2 diagnostics known before training predicts the gain significantly" in said
    lesion = next(one for one in found.correlations if one.measure == "lesion" and one.when == "before")
    assert f"{min(1.0, 2 * lesion.p):.2g} after Bonferroni correction for 2" in said


def test_verdicts_of_different_runs_are_never_compared() -> None:
    one = ([decision(step, float(step)) for step in (1, 2)], [diagnosis(step, float(step), 1.0) for step in (1, 2)])
    other = ([decision(step, step - 50.0) for step in (1, 2)], [diagnosis(step, step + 9.0, 1.0) for step in (1, 2)])
    lesion = next(one for one in evidence_of({"a": one, "b": other}).correlations if one.measure == "lesion")
    assert (lesion.tau, lesion.count) == (1.0, 4)


def test_failed_trainings_and_missing_values_are_left_out_of_the_correlation() -> None:
    decisions = [decision(1, 1.0), decision(2, 2.0), decision(3, -9.0, scores=1), decision(4, 3.0)]
    found = [diagnosis(1, 1.0, 1.0), diagnosis(2, 2.0, 1.0), diagnosis(3, 3.0, 1.0), diagnosis(4, None, None)]
    counts = {
        one.measure: one.count for one in evidence_of({"run": (decisions, found)}).correlations if one.when == "before"
    }
    assert counts == {"step": 3, "lesion": 2, "variance": 3}


def test_one_verdict_is_shown_and_correlates_with_nothing() -> None:
    found = evidence((1.0,), (2.0,))
    assert found.correlations == ()
    assert "needs at least two verdicts" in " ".join(found.words)
    assert "layer1.1" in evidence_text(found)
    assert "svg" not in "".join(evidence_html(found))


def test_both_sides_stand_beside_each_other_in_every_form() -> None:
    found = evidence(SHUFFLED, SHUFFLED)
    assert tabulate_diagnoses(found.rows).rows[1][-2:] == ["1.1 → 1.0", "1.00 → 0.50"]
    for told in (evidence_text(found), "\n".join(evidence_markdown(found)), "".join(evidence_html(found))):
        assert "1.1 → 1.0" in told


def test_foreign_text_stays_text() -> None:
    hostile = '<script>alert("1")</script>.1: conv'
    run = {hostile: ([decision(1, 1.0, edit=hostile)], [diagnosis(1, 1.0, 1.0, edit=hostile)]), "b": ([], [])}
    assert "<script>" not in "".join(evidence_html(evidence_of(run)))


def test_a_diagnosis_is_read_back_as_it_was_written() -> None:
    for one in (diagnosis(1, 2.0, 3.0), diagnosis(2, None, 0.5)):
        assert diagnosis_from_values(diagnosis_to_values(one)) == one


@pytest.mark.parametrize(("before", "after", "change"), [(2.0, 3.5, 1.5), (None, 3.0, None), (1.0, None, None)])
def test_a_change_needs_both_sides(before: float | None, after: float | None, change: float | None) -> None:
    assert diagnosis(1, before, after).mean("change", "lesion") == change


def flattened(gains: Sequence[float], apes: Sequence[float], nep: float = 0.1) -> Evidence:
    """Verdicts whose APE changes by these numbers, and whose NEP changes by the same number each time."""
    decisions = [decision(step, gain) for step, gain in enumerate(gains, start=1)]
    found = [
        replace(
            diagnosis(step, 1.0, 1.0),
            before={"ape": (50.0,), "nep": (0.1,)},
            after={"ape": (50 + ape,), "nep": (0.1 + nep,)},
        )
        for step, ape in enumerate(apes, start=1)
    ]
    return evidence_of({"run": (decisions, found)})


def test_flattening_that_goes_with_the_gain_is_told_as_that_and_chance_as_chance() -> None:
    assert "Candidates that are flatter than their parent gain more" in " ".join(
        flattened(SHUFFLED, [-gain for gain in SHUFFLED]).words
    )
    assert "Candidates that are sharper than their parent gain more" in " ".join(flattened(SHUFFLED, SHUFFLED).words)
    assert "It is not shown that flattening" in " ".join(flattened(SHUFFLED, sorted(SHUFFLED)).words)


@pytest.mark.parametrize(
    ("apes", "says"),
    [
        ([-1.0] * 9, "APE falls in 9 of 9 verdicts, as the paper says"),
        ([1.0] * 9, "APE falls in 0 of 9 verdicts, against the paper"),
        ([1.0, -1.0] * 4 + [0.0], "APE falls in 4 of 8 verdicts, which decides nothing"),
    ],
)
def test_what_the_paper_says_of_attention_is_counted_over_the_verdicts(apes: list[float], says: str) -> None:
    found = flattened(SHUFFLED, apes)
    for told in (evidence_text(found), "\n".join(evidence_markdown(found)), "".join(evidence_html(found))):
        assert says in told
    assert {one.measure: one.as_expected for one in found.effects}["nep"] == 9


@pytest.mark.parametrize(("successes", "count"), [(0, 9), (9, 9), (8, 11), (1, 30)])
def test_the_interval_of_a_share_is_exact(successes: int, count: int) -> None:
    expected = binomtest(successes, count).proportion_ci(0.95, method="exact")
    assert share_interval(successes, count) == pytest.approx((expected.low, expected.high))
