"""Where a space lets blocks be replaced, and what it says when it does not fit its base."""

from dataclasses import replace

import pytest

from buildup.errors import SpaceError
from buildup.graph.kinds import LocalAttention
from buildup.graph.layout import layout
from buildup.graph.network import sketch
from buildup.rules.moves import moves, start
from buildup.space.schema import SearchSpace, StageSpace

SPACE = SearchSpace(name="test", description="")


def test_heads_double_from_stage_to_stage() -> None:
    places = moves(sketch("CC|CC|CC|CC"), SPACE)
    kinds = [stage[0].kind for stage in places]
    assert [kind.heads for kind in kinds if isinstance(kind, LocalAttention)] == [3, 6, 12, 24]


def test_blocks_that_the_base_lacks_are_added_at_the_end_of_their_stage() -> None:
    space = replace(SPACE, stages=(StageSpace(), StageSpace(blocks=4)))
    assert layout(start(sketch("CC|CCC"), space)) == "CC|CCCC"


def test_every_misfit_of_a_space_is_named_at_once() -> None:
    space = replace(SPACE, stages=(StageSpace(blocks=1), StageSpace(max_replaced=4), StageSpace(window=9)))
    with pytest.raises(SpaceError) as error:
        start(sketch("CC|CCC|CC"), space)
    assert len(error.value.problems) == 3
    assert "stages[1].max_replaced is 4" in str(error.value)
    assert "Use 0 to 1" in str(error.value)
    assert "8x8 map" in str(error.value)


def test_another_number_of_stages_is_refused() -> None:
    with pytest.raises(SpaceError, match="2 entries, but sketch has 3 stages"):
        start(sketch("CC|CC|CC"), replace(SPACE, stages=(StageSpace(), StageSpace())))


def test_a_map_of_one_point_is_never_replaced() -> None:
    assert [len(places) for places in moves(sketch("CC|CC", size=2), SPACE)] == [1, 0]
