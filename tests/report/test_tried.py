"""What was tried and at what cost, as a page shows it."""

import re
from dataclasses import replace

import pytest

from buildup.report.findings import Findings
from buildup.report.page import page, use_code
from buildup.report.tried import COST_TITLE, PLOTS_TITLE, tried_html, tried_markdown
from buildup.report.words import escape
from buildup.trials.history import History
from buildup.trials.outcome import Failure, Outcome, Reason, Score


def section(findings: Findings, title: str) -> str:
    return next((part for part in tried_html(findings) if f"<h2>{title}</h2>" in part), "")


def test_the_leading_sentence_says_where_and_how_much(published: Findings) -> None:
    assert published.headline == (
        "Local attention at c4.3, c4.1, the end of c3 and the end of c2: "
        "82.48 -> 84.02 % validation accuracy, unproven."
    )
    assert page(published).index("Local attention at") < page(published).index("winner minus base")


def test_accuracy_is_drawn_against_attention_blocks_and_macs(published: Findings) -> None:
    plots = section(published, PLOTS_TITLE)
    assert re.findall(r'aria-label="([^"]*)"', plots) == [
        "validation accuracy against attention blocks",
        "validation accuracy against million MACs",
    ]
    assert "CCC|CCCC|CCCCCC|CCCM: 83.45" in plots
    ticks = re.findall(r'text-anchor="middle">([^<]*)<', plots.partition("million MACs")[0])
    assert "0.5" not in ticks
    assert "4" in ticks


@pytest.mark.parametrize(("second", "shown"), [("NVIDIA A100", True), ("NVIDIA H100", False)])
def test_measured_speed_is_drawn_where_all_trained_on_one_kind_of_device(
    second: str, shown: bool, published: Findings
) -> None:
    def measured(number: int, outcome: Outcome) -> Outcome:
        if not isinstance(outcome, Score):
            return outcome
        device = second if number else "NVIDIA A100"
        return replace(outcome, metrics={**outcome.metrics, "throughput": 1000.0 + number}, device=device)

    outcomes = {
        key: measured(*one)
        for key, one in zip(published.history.outcomes, enumerate(published.history.outcomes.values()), strict=True)
    }
    plots = section(replace(published, history=replace(published.history, outcomes=outcomes)), PLOTS_TITLE)
    assert ("accuracy against images per second, training" in plots) is shown
    assert ("Images per second are those" in plots) is shown


def test_every_step_is_listed_once_with_its_reason(published: Findings) -> None:
    html = re.sub(r"<svg.*?</svg>", "", page(published), flags=re.DOTALL)  # charts say it where one points at a step
    assert sum(not one.kept for one in published.decisions) == 4
    assert [html.count(f"{one.reason}<") for one in published.decisions] == [1] * len(published.decisions)
    assert all(f"<code>{escape(one.edit)}</code>" in html for one in published.decisions)


def test_the_cost_counts_what_no_verdict_needed(published: Findings, empty: Findings) -> None:
    outcomes = dict(published.history.outcomes)
    unneeded = Failure(reason=Reason.UNNEEDED, message="ended", seconds=60.0)
    lost = replace(published, history=replace(published.history, outcomes={**outcomes, f"{'0' * 16}-s0": unneeded}))
    assert "ended unneeded" in section(lost, COST_TITLE)
    assert "1 min 00 s of it" in section(lost, COST_TITLE)
    assert "changed no verdict" not in section(published, COST_TITLE)
    assert section(empty, COST_TITLE) == ""
    assert list(tried_markdown(replace(empty, history=History()))) == []


def test_the_winner_is_loaded_by_three_lines(published: Findings) -> None:
    said = use_code(replace(published, run="runs/my run"))
    assert len(said.splitlines()) == 3
    assert compile(said, "use", "exec")
    assert '"local-dir:runs/my run/export"' in said
    assert "Use the winner" not in page(published)
    assert "Use the winner" in page(replace(published, exported=True))


@pytest.mark.parametrize("word", ["parent", "point", "interval", "layout"])
def test_the_glossary_explains(word: str, published: Findings) -> None:
    assert f'<dt id="word-{word}">' in page(published)
