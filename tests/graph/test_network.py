import networkx as nx
import pytest

from buildup.errors import LayoutError
from buildup.graph.kinds import LocalAttention
from buildup.graph.network import sketch


def test_the_graph_runs_from_stem_to_head_through_every_block() -> None:
    network = sketch("CC|CM")
    assert list(nx.topological_sort(network.graph)) == ["stem", "c1.0", "c1.1", "c2.0", "c2.1", "head"]
    assert network.graph.nodes["c2.1"]["block"] == network.block("c2.1")
    assert network.graph.nodes["c2.1"]["stage"] == "c2"


def test_the_graph_cannot_be_changed() -> None:
    with pytest.raises(nx.NetworkXError):
        sketch("CC").graph.add_node("more")


def test_an_unknown_block_is_named_with_those_there_are() -> None:
    with pytest.raises(LayoutError, match=r"no block 'c9'; it has c1\.0, c1\.1"):
        sketch("CC").block("c9")


def test_a_stage_knows_its_size_and_letters() -> None:
    stage = sketch("CC|CM").stages[1]
    assert stage.size == (16, 16)
    assert stage.letters == "CM"


def test_a_kind_that_is_none_is_named_with_those_there_are() -> None:
    with pytest.raises(LayoutError, match="block kind 'Z' is not known; known are C, M"):
        sketch("CC|CC").replace("c2.1", "Z")
    with pytest.raises(LayoutError, match=r"c2\.1: heads beside a kind"):
        sketch("CC|CC").replace("c2.1", LocalAttention(heads=2, window=2), heads=5)
