"""The build-up rule, followed on tables of scores."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from buildup.graph.network import sketch
from buildup.space.schema import SearchSpace, StageSpace, Tuning
from buildup.strategies.alternet import AlterNetRule, most_drops
from buildup.strategies.moves import moves, steered
from buildup.trials.decision import Decision
from buildup.trials.training import Candidate
from hypothetical_decisions import hypothetical, walk

SPACE = SearchSpace(name="test", description="")
CIFAR = "CCC|CCCC|CCCCCC|CCCC"


def visited(rule: AlterNetRule, verdicts: Sequence[bool]) -> list[str]:
    """The layouts that a rule proposes under a row of verdicts; drops follow when the row is at its end."""
    layouts: list[str] = []
    step = rule.first
    while step:
        kept = verdicts[len(layouts)] if len(layouts) < len(verdicts) else False
        layouts.append(step.candidate.layout)
        step = step.after(hypothetical(step.candidate, kept))
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
    rule = rule_on(CIFAR, steered(SPACE, look_ahead=True))
    assert rule.first is not None
    second = walk(rule.first, [hypothetical(rule.first.candidate, kept=False)])
    assert second is not None
    assert second.candidate.layout == "CCC|CCCC|CCCCCC|CMCM"
    assert second.candidate.parent is rule.base
    assert len(second.candidate.edits) == 2


def test_a_kept_look_ahead_keeps_both_blocks() -> None:
    assert visited(rule_on(CIFAR, steered(SPACE, look_ahead=True)), [False, True])[2] == "CCC|CCCC|CCCCCM|CMCM"


def test_a_stage_that_may_not_be_replaced_is_left_alone() -> None:
    stages = (StageSpace(), StageSpace(), StageSpace(), StageSpace(max_replaced=0))
    assert visited(rule_on(CIFAR, replace(SPACE, stages=stages)), [])[0] == "CCC|CCCC|CCCCCM|CCCC"


@given(verdicts=st.lists(st.booleans(), max_size=12), depths=st.lists(st.integers(1, 7), min_size=1, max_size=5))
def test_any_row_of_verdicts_ends_with_legal_layouts_that_differ(verdicts: list[bool], depths: list[int]) -> None:
    rule = rule_on("|".join("C" * depth for depth in depths))
    layouts = visited(rule, verdicts)
    assert len(set(layouts)) == len(layouts)
    assert len(layouts) <= sum(len(places) for places in moves(rule.base.network, SPACE))
    for text in layouts:
        assert "MM" not in text
        assert all(stage.startswith("C") for stage in text.split("|"))


SPACES = st.builds(
    replace,
    st.just(SPACE),
    look_ahead=st.integers(0, 2),
    failures=st.integers(1, 3),
    step=st.integers(1, 3),
    order=st.sampled_from(["last-first", "first-last"]) | st.permutations([1, 2, 3, 4]).map(tuple),
    tune=st.none() | st.builds(Tuning, window=st.just((2, 4, 8)), kind=st.just(("M", "G")), tries=st.integers(1, 4)),
)
VERDICTS = st.lists(st.booleans(), max_size=14)


@settings(max_examples=25)
@given(verdicts=VERDICTS, space=SPACES)
def test_a_replayed_prefix_of_verdicts_proposes_the_recorded_next_step(
    verdicts: list[bool], space: SearchSpace
) -> None:
    whole = visited(rule_on(CIFAR, space), verdicts)
    for length in range(len(whole)):
        rule = rule_on(CIFAR, space)
        decisions: list[Decision] = []
        for number in range(length):
            step = walk(rule.first, decisions)
            assert step is not None
            decisions.append(hypothetical(step.candidate, verdicts[number] if number < len(verdicts) else False))
        replayed = walk(rule_on(CIFAR, space).first, decisions)
        assert replayed is not None
        assert replayed.candidate.layout == whole[length]


@pytest.mark.parametrize("verdict", [True, False])
def test_the_winner_holds_exactly_the_kept_blocks(verdict: bool) -> None:
    rule = rule_on("CC|CC")
    assert rule.first is not None
    second = walk(rule.first, [hypothetical(rule.first.candidate, verdict)])
    assert second is not None
    assert second.candidate.layout == ("CM|CM" if verdict else "CM|CC")


def test_stages_come_in_the_order_of_the_space() -> None:
    changed = [
        [next(number for number, stage in enumerate(text.split("|"), 1) if "M" in stage) for text in visited(rule, [])]
        for rule in (rule_on(CIFAR, replace(SPACE, order=order)) for order in ("first-last", (3, 1, 4, 2)))
    ]
    assert changed == [[1, 2, 3, 4], [3, 1, 4, 2]]


def test_a_failure_that_does_not_end_its_stage_is_left_out_of_the_next_try() -> None:
    rule = rule_on(CIFAR, replace(SPACE, failures=2))
    assert visited(rule, [])[:3] == ["CCC|CCCC|CCCCCC|CCCM", "CCC|CCCC|CCCCCC|CMCC", "CCC|CCCC|CCCCCM|CCCC"]


def test_failures_of_a_stage_add_up_over_keeps() -> None:
    rule = rule_on("CCCCCCCC", replace(SPACE, failures=2))
    assert visited(rule, [False, True]) == ["CCCCCCCM", "CCCCCMCC", "CCCMCMCC"]


def test_a_look_ahead_and_what_it_should_have_saved_are_one_failure() -> None:
    rule = rule_on("CCCCCCCC", replace(SPACE, failures=2, look_ahead=1))
    assert visited(rule, []) == ["CCCCCCCM", "CCCCCMCM", "CCCMCCCC", "CMCMCCCC"]


@settings(max_examples=50)
@given(verdicts=VERDICTS, space=SPACES, depths=st.lists(st.integers(1, 7), min_size=4, max_size=4))
def test_drops_of_one_search_never_use_more_than_its_error(
    verdicts: list[bool], space: SearchSpace, depths: list[int]
) -> None:
    # Where nothing helps, a mistake is a keep in place of one of the drops, so their shares must not pass 1 together.
    spent, decisions = 0.0, list[Decision]()
    step = rule_on("|".join("C" * depth for depth in depths), space).first
    while step is not None:
        kept = verdicts[len(decisions)] if len(decisions) < len(verdicts) else False
        spent += 0 if kept else step.share
        decisions.append(hypothetical(step.candidate, kept))
        step = step.after(decisions[-1])
    assert spent <= 1 + 1e-9


@pytest.mark.parametrize("space", [SPACE, replace(SPACE, look_ahead=1), replace(SPACE, failures=2, look_ahead=2)])
def test_the_whole_error_of_a_stage_can_be_used(space: SearchSpace) -> None:
    for places in range(1, 7):
        rule = rule_on("C" * (2 * places), space)
        drops = [
            sum(not kept for kept in row[: len(visited(rule, row))]) for row in product([True, False], repeat=places)
        ]
        assert max(drops) == most_drops(places, space)
