import pytest
from hypothesis import given
from hypothesis import strategies as st

from buildup.errors import LayoutError
from buildup.graph.layout import layout, parse
from buildup.graph.network import sketch

STAGES = st.lists(st.text("CMGKS", min_size=0, max_size=5).map(lambda rest: f"C{rest}"), min_size=1, max_size=4)


@given(STAGES)
def test_a_sketch_has_the_layout_it_was_made_from(stages: list[str]) -> None:
    assert layout(sketch("|".join(stages))) == "|".join(stages)


@given(STAGES)
def test_a_layout_read_for_its_own_network_gives_its_stages(stages: list[str]) -> None:
    text = "|".join(stages)
    assert parse(f" {text}\n", sketch(text)) == tuple(stages)


@given(STAGES, st.integers(min_value=1, max_value=3))
def test_positions_go_down_from_the_end_and_never_reach_the_first_block(stages: list[str], step: int) -> None:
    for stage in sketch("|".join(stages)).stages:
        positions = stage.positions(step)
        assert list(positions) == list(range(len(stage.blocks) - 1, 0, -step))
        assert all(stage.blocks[position].keeps_shape for position in positions)


def test_every_problem_of_a_layout_is_named_at_once() -> None:
    with pytest.raises(LayoutError) as caught:
        parse("MC|CXC", sketch("CC|CCCC"))
    assert len(caught.value.problems) == 2
    assert "c1.0 turns (3, 32, 32) into (64, 32, 32)" in caught.value.problems[0]
    assert "c2 of sketch has 4 blocks, not 3" in caught.value.problems[1]


def test_a_letter_that_can_t_stand_somewhere_is_told_where_it_fits() -> None:
    with pytest.raises(LayoutError, match=r"only C can stand there\. K fits at c2\.1, c2\.2\."):
        parse("CC|KCC", sketch("CC|CCC"))


def test_a_stage_may_have_one_block_more_where_the_space_adds_at_ends() -> None:
    assert parse("CCS|CC", sketch("CC|CC"), ends=True) == ("CCS", "CC")
    for text, ends in (("CCS|CC", False), ("CCSS|CC", True)):
        with pytest.raises(LayoutError, match="c1 of sketch has 2"):
            parse(text, sketch("CC|CC"), ends=ends)


@pytest.mark.parametrize(
    ("text", "says"), [("CC", "has 1 stages"), ("CC|CX", "'X' at c2.1"), ("CC|C", "has 2 blocks, not 1")]
)
def test_a_layout_of_another_network_is_refused(text: str, says: str) -> None:
    with pytest.raises(LayoutError, match=says):
        parse(text, sketch("CC|CC"))


@pytest.mark.parametrize("text", ["", "CC|", "CX"])
def test_a_sketch_needs_known_letters_in_every_stage(text: str) -> None:
    with pytest.raises(LayoutError):
        sketch(text)
