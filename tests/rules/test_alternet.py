"""The build-up rule, followed on tables of scores."""

from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from buildup.graph.layout import layout
from buildup.graph.network import sketch
from buildup.rules.alternet import AlterNetRule
from buildup.rules.base import imagine
from buildup.rules.moves import moves, with_look_ahead
from buildup.space.schema import SearchSpace, StageSpace
from buildup.trials.candidate import Candidate
from buildup.trials.decision import Decision

SPACE = SearchSpace(name="test", description="")
CIFAR = "CCC|CCCC|CCCCCC|CCCC"


def visited(rule: AlterNetRule, verdicts: Sequence[bool]) -> list[str]:
    """The layouts that a rule proposes under a row of verdicts; drops follow when the row is at its end."""
    decisions: list[Decision] = []
    layouts: list[str] = []
    while candidate := rule.propose(decisions):
        layouts.append(candidate.layout)
        kept = verdicts[len(decisions)] if len(decisions) < len(verdicts) else False
        decisions.append(imagine(candidate, kept))
    return layouts


def rule_on(text: str, space: SearchSpace = SPACE) -> AlterNetRule:
    return AlterNetRule(base=Candidate(network=sketch(text)), space=space)


def test_the_first_try_is_the_last_block() -> None:
    assert visited(rule_on(CIFAR), [])[0] == "CCC|CCCC|CCCCCC|CCCM"


def test_a_kept_block_moves_the_next_try_two_places_forward_in_its_stage() -> None:
    assert visited(rule_on(CIFAR), [True])[1] == "CCC|CCCC|CCCCCC|CMCM"


def test_a_dropped_block_moves_the_next_try_to_the_stage_before() -> None:
    assert visited(rule_on(CIFAR), [False])[1] == "CCC|CCCC|CCCCCM|CCCC"


def test_only_drops_try_each_stage_once() -> None:
    assert visited(rule_on(CIFAR), []) == [
        "CCC|CCCC|CCCCCC|CCCM",
        "CCC|CCCC|CCCCCM|CCCC",
        "CCC|CCCM|CCCCCC|CCCC",
        "CCM|CCCC|CCCCCC|CCCC",
    ]


def test_a_look_ahead_builds_on_the_dropped_state_and_is_compared_with_the_kept_one() -> None:
    rule = rule_on(CIFAR, with_look_ahead(SPACE))
    first = rule.propose(())
    assert first is not None
    second = rule.propose([imagine(first, kept=False)])
    assert second is not None
    assert second.layout == "CCC|CCCC|CCCCCC|CMCM"
    assert second.parent is rule.base
    assert len(second.edits) == 2


def test_a_kept_look_ahead_keeps_both_blocks() -> None:
    assert visited(rule_on(CIFAR, with_look_ahead(SPACE)), [False, True])[2] == "CCC|CCCC|CCCCCM|CMCM"


def test_a_stage_that_may_not_be_replaced_is_left_alone() -> None:
    stages = (StageSpace(), StageSpace(), StageSpace(), StageSpace(max_replaced=0))
    assert visited(rule_on(CIFAR, replace(SPACE, stages=stages)), [])[0] == "CCC|CCCC|CCCCCM|CCCC"


@settings(deadline=None)
@given(verdicts=st.lists(st.booleans(), max_size=12), depths=st.lists(st.integers(1, 7), min_size=1, max_size=5))
def test_any_row_of_verdicts_ends_with_legal_layouts_that_differ(verdicts: list[bool], depths: list[int]) -> None:
    rule = rule_on("|".join("C" * depth for depth in depths))
    layouts = visited(rule, verdicts)
    assert len(set(layouts)) == len(layouts)
    assert len(layouts) <= sum(len(places) for places in moves(rule.base.network, SPACE))
    for text in layouts:
        assert "MM" not in text
        assert all(stage.startswith("C") for stage in text.split("|"))


@settings(deadline=None)
@given(verdicts=st.lists(st.booleans(), max_size=12), look_ahead=st.integers(0, 2))
def test_a_replayed_prefix_of_verdicts_proposes_the_recorded_next_step(verdicts: list[bool], look_ahead: int) -> None:
    space = replace(SPACE, look_ahead=look_ahead)
    whole = visited(rule_on(CIFAR, space), verdicts)
    for length in range(len(whole)):
        rule = rule_on(CIFAR, space)
        decisions: list[Decision] = []
        for number in range(length):
            candidate = rule.propose(decisions)
            assert candidate is not None
            decisions.append(imagine(candidate, verdicts[number] if number < len(verdicts) else False))
        proposed = rule_on(CIFAR, space).propose(decisions)
        assert proposed is not None
        assert proposed.layout == whole[length]


@pytest.mark.parametrize("verdict", [True, False])
def test_the_winner_holds_exactly_the_kept_blocks(verdict: bool) -> None:
    rule = rule_on("CC|CC")
    first = rule.propose(())
    assert first is not None
    second = rule.propose([imagine(first, verdict)])
    assert second is not None
    assert layout(second.network) == ("CM|CM" if verdict else "CM|CC")
