import re
from collections.abc import Callable
from dataclasses import replace

import pytest

from buildup.graph.network import sketch
from buildup.report.findings import Findings
from buildup.report.text_table import (
    decisions_markdown,
    decisions_table,
    graph_text,
    try_order,
)
from buildup.report.words import edited_paths
from buildup.space.schema import SearchSpace
from buildup.strategies.alternet import AlterNetRule
from buildup.trials.training import Candidate
from hypothetical_decisions import walk

HOSTILE = "<b>`|\x1b[2J\n# x"


def test_each_decision_stands_on_a_line_of_its_own(published: Findings) -> None:
    header, *lines = decisions_table(published.decisions).splitlines()
    assert header.split() == ["step", "edit", "layout", "gain", "60", "%", "CI", "seeds", "params", "MACs", "verdict"]
    for line, decision in zip(lines, published.decisions, strict=True):
        assert decision.layout in line
        assert decision.edit in line
        assert line.endswith(decision.verdict)


def test_columns_are_straight(published: Findings) -> None:
    lines = decisions_table(published.decisions).splitlines()[1:]
    rows = list(zip(lines, published.decisions, strict=True))
    assert len({line.index(decision.layout) for line, decision in rows}) == 1
    assert len({line.rindex(decision.verdict) for line, decision in rows}) == 1


def test_a_search_without_decisions_says_so() -> None:
    assert decisions_table(()) == decisions_markdown(()) == "No decisions yet."


def test_foreign_text_neither_steers_the_terminal_nor_breaks_a_line(with_text: Callable[[str], Findings]) -> None:
    table = decisions_table(with_text(HOSTILE).decisions)
    assert "\x1b" not in table
    assert len(table.splitlines()) == 9


@pytest.mark.parametrize("text", ["", HOSTILE])
def test_every_row_of_a_decisions_markdown_has_the_cells_of_its_head(
    with_text: Callable[[str], Findings], text: str
) -> None:
    lines = decisions_markdown(with_text(text).decisions).splitlines()
    assert len(lines) == 10
    assert {len(re.findall(r"(?<!\\)\|", line)) for line in lines} == {10}
    assert all(line.count("`") == 4 for line in lines[2:])


def test_unknown_costs_are_shown_as_unknown(published: Findings) -> None:
    decision = replace(published.decisions[0], params=None, macs=None)
    assert decisions_table([decision]).splitlines()[1].split()[-3:] == ["?", "?", "keep"]


def test_a_graph_lists_every_block_once(published: Findings) -> None:
    text = graph_text(published.winner)
    for block in published.winner.blocks:
        assert len(re.findall(rf"^  {re.escape(block.path)} ", text, re.MULTILINE)) == 1
    assert "CCC|CCCM|CCCCCM|CMCM" in text
    assert "c3: 8 x 8, 256 channels" in text


def test_tries_are_numbered_in_the_order_in_which_the_rule_comes_to_them(published: Findings) -> None:
    network = sketch("CC|CCC|CCCCC|CCCC")
    rule = AlterNetRule(base=Candidate(network=network), space=SearchSpace(name="s", description=""))
    kept = published.decisions[0]
    steps = [walk(rule.first, (kept,) * number) for number in range(len(try_order(network)))]
    assert [step and edited_paths(step.candidate.edit) for step in steps] == list(try_order(network))
    assert walk(rule.first, (kept,) * len(steps)) is None


def test_a_map_of_one_point_has_no_try() -> None:
    assert list(try_order(sketch("CC|CC", size=2))) == ["c1.1"]
    assert "try n" not in graph_text(sketch("CC", size=1))
