from collections.abc import Callable
from dataclasses import replace

import networkx as nx
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from buildup.errors import LayoutError
from buildup.graph.kinds import BlockKind, Conv, ConvAttention, GlobalAttention, LocalAttention, Smoothing
from buildup.graph.layout import parse
from buildup.graph.network import (
    Append,
    Edit,
    Network,
    Replace,
    Stage,
    apply,
    base_of,
    edits_between,
    replacement,
    sketch,
)
from buildup.graph.serialize import fingerprint

LAYOUTS = st.lists(st.integers(min_value=1, max_value=5), min_size=1, max_size=4).map(
    lambda lengths: "|".join("C" * length for length in lengths)
)


def kinds(stage: Stage) -> list[BlockKind]:
    window = min(4, *stage.size)
    return [
        Conv(),
        LocalAttention(heads=3, window=window),
        GlobalAttention(heads=3),
        ConvAttention(heads=3),
        Smoothing(),
    ]


def legal_edits(network: Network) -> list[Edit]:
    edits: list[Edit] = []
    for stage in network.stages:
        edits += [Append(stage=stage.name, kind=kind) for kind in kinds(stage) if not stage.closed]
        for block in (stage.blocks[position] for position in stage.replaceable):
            edits += [replacement(network, block.path, kind) for kind in kinds(stage) if kind != block.kind]
    return edits


@st.composite
def edited(draw: st.DrawFn) -> tuple[Network, Network]:
    """A network, and what some legal edits make of it."""
    before = network = sketch(draw(LAYOUTS))
    for _ in range(draw(st.integers(min_value=0, max_value=6))):
        if edits := legal_edits(network):
            network = apply(network, draw(st.sampled_from(edits)))
    return before, network


@given(edited())
def test_any_edits_keep_the_graph_acyclic_and_whole(networks: tuple[Network, Network]) -> None:
    _, network = networks
    graph = network.graph
    assert nx.is_directed_acyclic_graph(graph)
    assert set(graph) == {"stem", "head", *(block.path for block in network.blocks)}
    assert nx.has_path(graph, "stem", "head")
    assert all(degree <= 1 for _, degree in graph.in_degree())


@given(edited())
def test_any_edits_keep_the_shapes_joined(networks: tuple[Network, Network]) -> None:
    _, network = networks
    inner = [edge for edge in network.edges if "stem" not in edge and "head" not in edge]
    for source, target in inner:
        assert network.block(source).out_shape == network.block(target).in_shape


@given(edited())
def test_an_edit_leaves_the_network_it_was_given(networks: tuple[Network, Network]) -> None:
    before, _ = networks
    assert not before.replaced
    assert not any(block.added for block in before.blocks)


@given(edited(), st.data())
def test_a_replacement_undone_gives_the_network_back(networks: tuple[Network, Network], data: st.DataObject) -> None:
    _, network = networks
    replacements = [edit for edit in legal_edits(network) if isinstance(edit, Replace)]
    assume(replacements)
    edit = data.draw(st.sampled_from(replacements))
    changed = apply(network, edit)
    assert fingerprint(changed) != fingerprint(network)
    again = apply(changed, Replace(path=edit.path, old=edit.new, new=edit.old))
    assert again == network
    assert fingerprint(again) == fingerprint(network)


@given(edited())
def test_only_the_blocks_that_were_replaced_are_not_conv(networks: tuple[Network, Network]) -> None:
    _, network = networks
    assert network.replaced.keys() == {block.path for block in network.blocks if block.kind.letter != "C"}


@given(edited(), st.data())
def test_edits_at_different_places_commute(networks: tuple[Network, Network], data: st.DataObject) -> None:
    _, network = networks
    edits = legal_edits(network)
    assume(edits)
    one = data.draw(st.sampled_from(edits))
    others = [other for other in edits if place(other) != place(one)]
    assume(others)
    other = data.draw(st.sampled_from(others))
    first, second = apply(apply(network, one), other), apply(apply(network, other), one)
    assert first.stages == second.stages
    assert set(first.edges) == set(second.edges)
    assert fingerprint(first) == fingerprint(second)


def place(edit: Edit) -> str:
    return edit.stage if isinstance(edit, Append) else edit.path


@given(edited())
def test_the_edits_between_two_networks_turn_one_into_the_other(networks: tuple[Network, Network]) -> None:
    before, network = networks
    for edit in edits_between(before, network):
        before = apply(before, edit)
    assert before.stages == network.stages
    assert fingerprint(before) == fingerprint(network)
    assert edits_between(network, network) == ()


@given(edited())
def test_the_base_of_a_network_is_that_before_all_edits(networks: tuple[Network, Network]) -> None:
    before, network = networks
    base = base_of(network)
    assert base.stages == before.stages
    assert set(base.edges) == set(before.edges)
    assert fingerprint(base) == fingerprint(before)


@given(LAYOUTS, st.sampled_from([1, 2, 4, 32]), st.data())
def test_edits_layouts_and_positions_agree_on_where_another_kind_may_stand(
    text: str, size: int, data: st.DataObject
) -> None:
    network = sketch(text, size=size)
    for number, stage in enumerate(network.stages):
        fixed = data.draw(st.sets(st.sampled_from(range(len(stage.blocks)))))
        blocks = [
            replace(block, fixed="stays") if index in fixed else block for index, block in enumerate(stage.blocks)
        ]
        network = network.with_stage(number, replace(stage, blocks=tuple(blocks)))
    for number, stage in enumerate(network.stages):
        free = set(stage.replaceable)
        for index, block in enumerate(stage.blocks):
            letters = [other.letters for other in network.stages]
            letters[number] = f"{stage.letters[:index]}S{stage.letters[index + 1 :]}"
            assert (index in free) == accepted(apply, network, replacement(network, block.path, Smoothing()))
            assert (index in free) == accepted(parse, "|".join(letters), network)


def accepted(attempt: Callable[..., object], *arguments: object) -> bool:
    try:
        attempt(*arguments)
    except LayoutError:
        return False
    return True


def test_an_appended_block_is_named_after_the_last_and_read_by_the_next_stage() -> None:
    network = apply(sketch("CC|CC"), Append(stage="c1"))
    assert [block.path for block in network.stages[0].blocks] == ["c1.0", "c1.1", "c1.2"]
    assert ("c1.2", "c2.0") in network.edges
    assert network.block("c1.2").added


def test_a_block_appended_after_attention_is_conv() -> None:
    network = apply(apply(sketch("CC"), attention("c1.1")), Append(stage="c1"))
    assert network.stages[0].letters == "CMC"


def test_an_edit_says_what_it_does() -> None:
    assert str(attention("c1.1")) == "c1.1: conv -> msa(heads=3, window=4)"
    assert str(Append(stage="c1")) == "c1: one more conv"


@pytest.mark.parametrize(
    ("edit", "says"),
    [
        (Replace(path="c1.0", old=Conv(), new=LocalAttention(heads=3, window=4)), "changes resolution or width"),
        (Replace(path="c1.9", old=Conv(), new=LocalAttention(heads=3, window=4)), "has no block 'c1.9'"),
        (Replace(path="c1.1", old=LocalAttention(heads=3, window=4), new=Conv()), "is for another network"),
        (Replace(path="c2.1", old=Conv(), new=LocalAttention(heads=3, window=17)), "does not fit into its 16x16 map"),
        (Append(stage="c3"), "has no stage 'c3'"),
    ],
)
def test_an_edit_that_does_not_fit_is_refused(edit: Edit, says: str) -> None:
    with pytest.raises(LayoutError, match=says):
        apply(sketch("CC|CC"), edit)


def test_a_map_of_one_point_takes_no_kind_but_the_base_s_own() -> None:
    network = sketch("CC|CC", size=2)
    with pytest.raises(LayoutError, match=r"c2\.1 of sketch sees maps of one point"):
        apply(network, replacement(network, "c2.1", Smoothing()))
    with pytest.raises(LayoutError, match="only C can be added"):
        apply(network, Append(stage="c2", kind=GlobalAttention(heads=3)))
    assert apply(network, Append(stage="c2")).stages[1].letters == "CCC"


def test_an_added_block_of_another_kind_is_named_in_the_edit() -> None:
    edit = Append(stage="c1", kind=Smoothing())
    assert str(edit) == "c1: one more smoothing"
    assert apply(sketch("CC"), edit).replaced == {"c1.2": Smoothing()}


def test_a_stage_of_one_block_that_changes_its_shape_takes_no_further_one() -> None:
    with pytest.raises(LayoutError, match="no further one can follow"):
        apply(sketch("CC|C"), Append(stage="c2"))


def attention(path: str) -> Replace:
    return Replace(path=path, old=Conv(), new=LocalAttention(heads=3, window=4))
