"""Several searches side by side."""

import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from xml.etree import ElementTree

import pytest

from buildup.report.compare import comparison_page, comparison_table, comparison_text
from buildup.report.comparison import MAY_DIFFER, MUST_MATCH, Compared, compared, comparison_values
from buildup.report.findings import Findings
from buildup.trials.outcome import Score

FACTS: Mapping[str, str] = {name: f"a {name}" for name in (*MUST_MATCH, *MAY_DIFFER)}


def named(findings: Findings, run: str, strategy: str) -> Findings:
    return replace(findings, run=run, settings={**findings.settings, "strategy": strategy, "judge": "likely"})


@pytest.fixture(scope="session")
def two(published: Findings) -> list[Compared]:
    """The published search, and one that stopped after its second verdict."""
    shorter = replace(published, history=replace(published.history, decisions=published.decisions[:2]))
    return [
        compared(named(published, "first", "alternet"), FACTS),
        compared(replace(named(shorter, "second", "random"), reused={"a": "x", "b": "x", "c": "x"}), FACTS),
    ]


def test_the_best_so_far_counts_what_verdicts_stand_on(two: list[Compared]) -> None:
    first, second = two
    assert [one.trainings for one in first.reached] == [3 * networks for networks in range(1, 10)]
    assert [one.trainings for one in second.reached] == [3, 6, 9]
    assert first.reached[-1].score == pytest.approx(84.02)
    assert first.needed == first.trainings == 27


def test_each_network_with_a_verdict_is_a_point_and_one_is_the_winner(two: list[Compared]) -> None:
    first = two[0]
    assert [point.role for point in first.points].count("winner") == 1
    assert len(first.points) == 9
    assert first.winner is not None
    assert first.winner.layout == "CCC|CCCM|CCCCCM|CMCM"
    assert first.winner.score == pytest.approx(84.02)


@pytest.mark.parametrize("name", MUST_MATCH)
def test_runs_that_differ_in_what_must_be_equal_are_said_not_to_compare(two: list[Compared], name: str) -> None:
    other = replace(two[1], facts={**FACTS, name: "something else"})
    for text in (comparison_page([two[0], other]), comparison_text([two[0], other]), comparison_table([two[0], other])):
        assert "Not comparable" in text
        assert name in text
    values = comparison_values([two[0], other])
    assert not values["comparable"]
    assert values["differences"] == {name: [f"a {name}", "something else"]}


@pytest.mark.parametrize("name", MAY_DIFFER)
def test_what_may_differ_is_told_and_leaves_runs_comparable(two: list[Compared], name: str) -> None:
    other = replace(two[1], facts={**FACTS, name: "something else"})
    for text in (comparison_page([two[0], other]), comparison_text([two[0], other])):
        assert "Comparable" in text
        assert f"Other differences: {name}." in text
        assert "something else" in text
    values = comparison_values([two[0], other])
    assert values["comparable"]
    assert values["other_differences"] == {name: [f"a {name}", "something else"]}


def test_a_gain_stands_on_the_seeds_that_winner_and_base_both_have(published: Findings, two: list[Compared]) -> None:
    assert two[0].gains == pytest.approx((1.54, 1.54, 1.54))
    more = Score(accuracy=99.0, images=5000)
    luckier = replace(published, history=published.history.with_outcome(f"{published.winner_id}-s7", more))
    lucky = compared(luckier, FACTS)
    assert lucky.winner is not None
    base = next(point for point in lucky.points if point.role == "base")
    assert lucky.gain == pytest.approx(1.54)
    assert lucky.winner.score - base.score == pytest.approx(1.54)


def test_the_best_so_far_begins_with_the_base_though_the_first_candidates_were_dropped_untrained(
    published: Findings,
) -> None:
    first = published.decisions[0]
    untrained = replace(first, step=0, scores=(), parent_scores=(), seeds=0, verdict="drop", candidate="too large")
    decisions = (untrained, *published.decisions)
    run = compared(replace(published, history=replace(published.history, decisions=decisions)), FACTS)
    assert [one.trainings for one in run.reached] == [3, 3, *(3 * networks for networks in range(2, 10))]
    none = compared(replace(published, history=replace(published.history, decisions=(untrained,))), FACTS)
    assert [one.trainings for one in none.reached] == [3, 3]
    assert none.reached[0].score == pytest.approx(82.48)
    assert none.gain == 0


def test_equal_runs_compare_and_all_they_found_and_spent_is_told(two: list[Compared]) -> None:
    page, text = comparison_page(two), comparison_text(two)
    assert comparison_values(two)["comparable"]
    for part in ("Comparable", "first", "second", "alternet", "random", "84.02", "+1.54", "reused", "No final"):
        assert part in page
        assert part in text.replace("\\", "") or part == "No final"
    pictures = re.findall(r"<svg.*?</svg>", page, re.DOTALL)
    assert len(pictures) == 2
    for picture in pictures:
        ElementTree.fromstring(picture)


def test_the_table_counts_trainings_by_what_they_were_for(two: list[Compared]) -> None:
    head, _, second = (line.split() for line in comparison_table(two).splitlines()[:3])
    row = dict(zip(head, second, strict=False))
    assert [row[name] for name in ("verdicts", "kept", "trainings", "needed", "reused")] == ["2", "2", "27", "9", "3"]


def test_a_run_without_any_score_can_be_compared(empty: Findings, two: list[Compared]) -> None:
    nothing = compared(empty, FACTS)
    assert nothing.winner is None
    assert "a run" in comparison_page([nothing, two[0]])
    assert comparison_text([nothing, nothing])


def test_foreign_text_in_a_comparison_stays_text(with_text: Callable[[str], Findings]) -> None:
    hostile = "<script>alert(1)</script>"
    runs = [compared(with_text(hostile), {**FACTS, "dataset": f"{hostile}{number}"}) for number in range(2)]
    assert "<script" not in comparison_page(runs)
    assert "<script" not in re.sub(r"`[^`\n]*`", "", comparison_text(runs))
