"""Where a space lets blocks be replaced or added, and what it says when it does not fit its base."""

from dataclasses import replace
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from buildup.errors import LayoutError, SpaceError
from buildup.graph.edit import Append, apply
from buildup.graph.kinds import BlockKind, Conv, ConvAttention, GlobalAttention, LocalAttention, Smoothing
from buildup.graph.layout import layout
from buildup.graph.network import Network, sketch
from buildup.space.load import load, shipped
from buildup.space.schema import SearchSpace, StageSpace
from buildup.strategies.moves import from_layout, moves, start

SPACE = SearchSpace(name="test", description="")
CIFAR = "CCC|CCCC|CCCCCC|CCCC"


def kinds(network: Network, space: SearchSpace) -> list[BlockKind]:
    """The first move of each stage."""
    return [places[0].kind for places in moves(network, space)]


def heads(network: Network, space: SearchSpace) -> list[int]:
    return [
        kind.heads
        for kind in kinds(network, space)
        if isinstance(kind, LocalAttention | GlobalAttention | ConvAttention)
    ]


@pytest.mark.parametrize(
    ("stages", "expected"), [(5, [1, 3, 6, 12, 24]), (4, [3, 6, 12, 24]), (3, [6, 12, 24]), (2, [12, 24])]
)
def test_heads_double_up_to_the_last_stage_and_are_counted_from_there(stages: int, expected: list[int]) -> None:
    assert heads(sketch("|".join(["CC"] * stages), size=64), SPACE) == expected


def test_heads_of_the_space_and_of_a_stage_are_kept() -> None:
    stages = (StageSpace(), StageSpace(heads=5), StageSpace(), StageSpace())
    assert heads(sketch(CIFAR), replace(SPACE, heads=2, stages=stages)) == [2, 5, 8, 16]


def test_attention_is_fitted_to_the_block_that_it_replaces() -> None:
    network = sketch("CC")
    small = replace(network.block("c1.1"), params=8 * 64**2)
    [kind] = kinds(network.with_stage(0, replace(network.stages[0], blocks=(network.block("c1.0"), small))), SPACE)
    assert kind == LocalAttention(heads=8, head_size=16, window=4, width=56)


@pytest.mark.parametrize(
    ("space", "expected"),
    [
        (replace(SPACE, kind="M", tables="heads"), LocalAttention(heads=24, window=4, tables="heads")),
        (replace(SPACE, kind="M", window=2), LocalAttention(heads=24, window=2)),
        (replace(SPACE, kind="G", head_size=32), GlobalAttention(heads=24, head_size=32)),
        (replace(SPACE, kind="K", kernel=5, borders="attended"), ConvAttention(heads=24, kernel=5, borders="attended")),
        (replace(SPACE, kind="S", temperature=5), Smoothing(temperature=5)),
        (replace(SPACE, kind="C", place="end"), Conv()),
    ],
)
def test_a_kind_takes_its_settings_from_the_space(space: SearchSpace, expected: BlockKind) -> None:
    assert kinds(sketch(CIFAR), space)[-1] == expected


def test_stages_may_try_different_kinds() -> None:
    letters = ("S", "K", "G", "M")
    space = replace(SPACE, stages=tuple(StageSpace(kind=letter) for letter in letters))
    assert [kind.letter for kind in kinds(sketch(CIFAR), space)] == ["S", "K", "G", "M"]


@pytest.mark.parametrize("letter", ["C", "M", "G", "K", "S"])
def test_a_block_of_any_kind_can_be_added_at_the_end_of_a_stage(letter: str) -> None:
    network, space = sketch("CC|CCC"), replace(SPACE, kind=letter, place="end")
    [first], [last] = moves(network, space)
    assert (first.path, last.path) == ("c1.2", "c2.3")
    changed = apply(apply(network, last.edit(network)), first.edit(network))
    assert layout(changed) == f"CC{letter}|CCC{letter}"
    assert changed.block("c2.3").added


def test_nothing_is_added_to_a_stage_that_takes_no_further_block() -> None:
    network = sketch("CC|CC|C")
    network = network.with_stage(0, replace(network.stages[0], grows=False))
    assert [len(places) for places in moves(network, replace(SPACE, kind="S", place="end"))] == [0, 1, 0]


def test_a_stage_left_alone_gets_no_block_at_its_end() -> None:
    space = replace(SPACE, kind="S", place="end", stages=(StageSpace(max_replaced=0), StageSpace()))
    assert [len(places) for places in moves(sketch("CC|CC"), space)] == [0, 1]


@given(
    st.lists(st.integers(1, 5), min_size=1, max_size=5),
    st.sampled_from([2, 8, 32]),
    st.sampled_from(["C", "M", "G", "K", "S"]),
    st.booleans(),
)
def test_every_move_is_an_edit_that_its_network_takes(depths: list[int], size: int, letter: str, end: bool) -> None:
    network = sketch("|".join("C" * depth for depth in depths), size=size)
    place: Literal["replace", "end"] = "end" if end or letter == "C" else "replace"
    space = replace(SPACE, kind=letter, step=2 if place == "end" else 1, place=place)
    for stage, places in zip(network.stages, moves(network, space), strict=True):
        for move in places:
            changed = apply(network, move.edit(network))
            assert changed.block(move.path).kind == move.kind
        if place == "replace":
            assert [move.path for move in places] == [stage.blocks[index].path for index in stage.positions(step=1)]


def test_blocks_that_the_base_lacks_are_added_at_the_end_of_their_stage() -> None:
    space = replace(SPACE, stages=(StageSpace(), StageSpace(blocks=4)))
    assert layout(start(sketch("CC|CCC"), space)) == "CC|CCCC"
    assert layout(start(start(sketch("CC|CCC"), space), space)) == "CC|CCCC"


def test_an_order_names_every_stage_of_the_base() -> None:
    with pytest.raises(SpaceError, match=r"space test: order names 3 stages, but sketch has 4\. Name each of them"):
        start(sketch(CIFAR), replace(SPACE, order=(3, 2, 1)))


def test_every_misfit_of_a_space_is_named_at_once() -> None:
    space = replace(SPACE, stages=(StageSpace(blocks=1), StageSpace(max_replaced=4), StageSpace(window=9)))
    with pytest.raises(SpaceError) as error:
        start(sketch("CC|CCC|CC"), space)
    assert len(error.value.problems) == 3
    assert "stages[1].max_replaced is 4" in str(error.value)
    assert "Use 0 to 1" in str(error.value)
    assert "8x8 map" in str(error.value)


def test_a_window_matters_only_to_the_stages_that_try_windows() -> None:
    stages = (StageSpace(), StageSpace(kind="S"))
    assert start(sketch("CC|CC", size=8), replace(SPACE, window=8, stages=stages)) == sketch("CC|CC", size=8)


def test_blocks_can_t_be_asked_for_where_a_stage_takes_none() -> None:
    with pytest.raises(SpaceError, match=r"stages\[1\].blocks is 2, but c2 of sketch ends in a block that changes"):
        start(sketch("CC|C"), replace(SPACE, stages=(StageSpace(), StageSpace(blocks=2))))


def test_more_than_one_block_a_stage_can_t_be_added_at_its_end() -> None:
    space = replace(SPACE, kind="S", place="end", stages=(StageSpace(max_replaced=2), StageSpace()))
    with pytest.raises(SpaceError, match=r"max_replaced is 2, but .* Use 0 to 1"):
        start(sketch("CC|CC"), space)


@pytest.mark.parametrize(("place", "says"), [("replace", "can be replaced"), ("end", "can be followed by one more")])
def test_a_base_in_which_nothing_can_be_tried_is_refused(place: str, says: str) -> None:
    space = replace(SPACE, kind="S", place="end" if place == "end" else "replace")
    with pytest.raises(SpaceError, match=f"no block of sketch {says} at 1x1 pixels"):
        start(sketch("CC|CC", size=1), space)


def test_another_number_of_stages_is_refused() -> None:
    with pytest.raises(SpaceError, match="2 entries, but sketch has 3 stages"):
        start(sketch("CC|CC|CC"), replace(SPACE, stages=(StageSpace(), StageSpace())))


def test_a_map_of_one_point_is_never_replaced() -> None:
    assert [len(places) for places in moves(sketch("CC|CC", size=2), SPACE)] == [1, 0]


@pytest.mark.parametrize("name", list(shipped()))
def test_a_shipped_space_gives_moves_in_every_stage(name: str) -> None:
    space = load(name)
    assert all(moves(start(sketch("CCC|CCCC|CCCCCC|CCC"), space), space))


@given(st.sampled_from(list(shipped())), st.data())
def test_a_layout_becomes_the_network_that_a_search_would_reach(name: str, data: st.DataObject) -> None:
    base, space = sketch("CCC|CCCC|CCCCCC|CCC"), load(name)
    network = start(base, space)
    for places in moves(network, space):
        for move in data.draw(st.sets(st.sampled_from(places))):
            network = apply(network, move.edit(network))
    again = from_layout(layout(network), base, space)
    assert again.stages == network.stages
    assert set(again.edges) == set(network.edges)


def test_a_layout_may_name_kinds_that_the_space_does_not_try() -> None:
    network = from_layout("CGS|CKM", sketch("CCC|CCC"), replace(SPACE, kind="K", kernel=5))
    assert list(network.replaced.values()) == [
        GlobalAttention(heads=12),
        Smoothing(),
        ConvAttention(heads=24, kernel=5),
        LocalAttention(heads=24, window=4),
    ]


def test_a_layout_names_the_blocks_that_the_space_adds() -> None:
    assert (
        from_layout("CC|CCMC", sketch("CC|CCC"), replace(SPACE, stages=(StageSpace(), StageSpace(blocks=4))))
        .block("c2.3")
        .added
    )
    with pytest.raises(LayoutError, match="c2 of sketch has 3 blocks, not 4: CCC"):
        from_layout("CC|CCMC", sketch("CC|CCC"), SPACE)


def test_every_problem_of_a_layout_with_its_base_is_named_at_once() -> None:
    with pytest.raises(LayoutError) as error:
        from_layout("MC|CX|CCC", sketch("CC|CC|CC"), SPACE)
    assert len(error.value.problems) == 3


def test_every_window_of_a_layout_that_does_not_fit_is_named_at_once() -> None:
    stages = (StageSpace(), StageSpace(max_replaced=0, window=17), StageSpace(max_replaced=0, window=9))
    with pytest.raises(LayoutError) as error:
        from_layout("CC|CM|CM", sketch("CC|CC|CC"), replace(SPACE, stages=stages))
    assert [problem.split(": ", 1)[1] for problem in error.value.problems] == [
        "c2.1 of sketch: window 17 does not fit into its 16x16 map. Use a window of at most 16.",
        "c3.1 of sketch: window 9 does not fit into its 8x8 map. Use a window of at most 8.",
    ]


def test_an_added_block_of_the_base_s_own_is_the_control_of_equal_size() -> None:
    space = replace(SPACE, kind="C", place="end")
    assert from_layout("CCC|CC", sketch("CC|CC"), space) == apply(sketch("CC|CC"), Append(stage="c1"))
