"""The control: the base's own blocks, as many parameters as the winner."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from buildup.errors import RequestError
from buildup.graph.kinds import LocalAttention
from buildup.graph.network import Network, apply, replacement, sketch
from buildup.strategies.network_size import control_of
from buildup.trials.training import Candidate

BASE = Candidate(network=sketch("CCC|CCCC|CCCCCC|CCC"))
PATHS = ("c4.2", "c3.5", "c3.3", "c2.3", "c1.2")
OF_A_BLOCK = {"c1": 1, "c2": 4, "c3": 16, "c4": 64}


def winner_of(changed: int) -> Network:
    network = BASE.network
    for path in PATHS[:changed]:
        network = apply(network, replacement(network, path, LocalAttention(heads=3, window=4)))
    return network


def counted(network: Network, of_attention: int) -> int:
    """A block costs four times as much in each later stage; attention costs more than the block it replaces."""
    return sum(
        OF_A_BLOCK[stage.name] + of_attention * (block.kind.letter == "M")
        for stage in network.stages
        for block in stage.blocks
    )


@given(changed=st.integers(1, 5), of_attention=st.integers(1, 40))
def test_it_has_the_bases_own_blocks_only_and_is_nearer_in_size_than_the_base(changed: int, of_attention: int) -> None:
    winner = winner_of(changed)

    def params(network: Network) -> int:
        return counted(network, of_attention)

    control = control_of(BASE, winner, params).network
    assert {block.kind.letter for block in control.blocks} == {"C"}
    assert 1 <= len(list(control.blocks)) - len(list(BASE.network.blocks)) <= changed
    wanted = params(winner)
    assert abs(params(control) - wanted) < abs(params(BASE.network) - wanted)


def test_the_nearest_sum_of_blocks_is_found() -> None:
    control = control_of(BASE, winner_of(5), lambda network: counted(network, 17))
    assert control.layout == "CCCC|CCCCC|CCCCCCC|CCCC"  # 5 x 17 is 1 + 4 + 16 + 64


def test_a_winner_that_is_smaller_than_its_base_has_none() -> None:
    with pytest.raises(RequestError, match="Leave --control out"):
        control_of(BASE, winner_of(2), lambda network: counted(network, -1))
