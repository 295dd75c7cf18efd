from collections.abc import Iterable
from typing import Any

import pytest

from buildup.graph.kinds import LocalAttention
from buildup.graph.network import Append, Shape, apply, replacement
from buildup.models.cost import cost
from buildup.models.read import read_network
from buildup.models.zoo import PAPER, paper_network

LARGE: tuple[Shape, int] = ((3, 224, 224), 1000)
SMALL: tuple[Shape, int] = ((3, 32, 32), 100)

# Millions of parameters and GMACs, at 224 px with 1000 classes and at 32 px with 100.
TABLE = {
    "alter_resnet18": ((9.969, 1.673), (9.499, 0.498)),
    "alter_resnet34": ((22.833, 3.598), (22.363, 1.119)),
    "alter_resnet50": ((35.915, 5.013), (34.063, 1.580)),
    "alter_resnet50_cifar": ((34.865, 4.778), (33.013, 1.510)),
    "alter_resnet101": ((54.907, 8.725), (53.055, 2.792)),
    "alter_resnet152": ((70.551, 12.437), (68.698, 4.004)),
}
BASES = {
    "resnetv2_18": (11.688, 1.814),
    "resnetv2_34": (21.796, 3.664),
    "resnetv2_50": (25.549, 4.089),
    "resnetv2_101": (44.541, 7.801),
    "resnetv2_152": (60.185, 11.514),
}


def deepest_slowly(names: Iterable[str]) -> list[Any]:
    """The same law for all, and the two deepest only where there is time."""
    return [pytest.param(name, marks=pytest.mark.slow) if name.endswith(("101", "152")) else name for name in names]


@pytest.mark.parametrize("name", deepest_slowly(PAPER))
def test_the_papers_networks_cost_what_the_paper_says(name: str) -> None:
    for (shape, classes), expected in zip((LARGE, SMALL), TABLE[name], strict=True):
        found = cost(paper_network(name, input_shape=shape, num_classes=classes))
        assert (round(found.params / 1e6, 3), round(found.macs / 1e9, 3)) == expected


@pytest.mark.parametrize("base", deepest_slowly(BASES))
def test_bases_cost_what_the_paper_says(base: str) -> None:
    found = cost(read_network(base, input_shape=(3, 224, 224), num_classes=1000))
    assert (round(found.params / 1e6, 3), round(found.macs / 1e9, 3)) == BASES[base]


def test_the_base_of_the_cifar_search_and_its_control_cost_what_the_paper_says() -> None:
    shape, classes = SMALL
    base = read_network("resnetv2_50", input_shape=shape, num_classes=classes)
    assert (cost(base).params, round(cost(base).macs / 1e9, 3)) == (23_697_572, 1.298)
    control = apply(base, Append(stage="stages.3"))
    assert (round(cost(control).params / 1e6, 3), round(cost(control).macs / 1e9, 3)) == (28.160, 1.369)
    large = apply(read_network("resnetv2_50", input_shape=LARGE[0], num_classes=LARGE[1]), Append(stage="stages.3"))
    assert (round(cost(large).params / 1e6, 3), round(cost(large).macs / 1e9, 3)) == (30.012, 4.308)


@pytest.mark.parametrize(("stage", "expected"), list(enumerate([103_345, 411_441, 1_642_033, 6_560_817])))
def test_an_attention_block_has_the_parameters_of_the_closed_form(stage: int, expected: int) -> None:
    conv = [70_400, 280_064, 1_117_184, 4_462_592][stage]
    network = read_network("resnetv2_50", input_shape=(3, 32, 32), num_classes=100)
    path = network.stages[stage].blocks[-1].path
    attention = LocalAttention(heads=3 * 2**stage, window=4)
    changed = apply(network, replacement(network, path, attention))
    assert cost(changed).params - cost(network).params == expected - conv


@pytest.mark.parametrize(("base", "expansion"), [("resnet18", 1), ("resnet26", 4), ("resnetv2_18", 1)])
def test_the_closed_form_holds_for_both_forms_and_families(base: str, expansion: int) -> None:
    network = read_network(base, input_shape=(3, 32, 32), num_classes=10)
    block = network.stages[2].blocks[1]
    channels = block.out_shape[0]
    width, inner, side = channels // expansion, 5 * 16, 3
    table = (2 * side - 1) ** 2
    # The norm on the wide side stands before in one form and after in the other: the sum is the same.
    expected = 2 * channels + channels * width + 2 * width + 3 * width * inner + inner * channels + channels + table
    changed = apply(network, replacement(network, block.path, LocalAttention(heads=5, head_size=16, window=side)))
    doubled = apply(changed, Append(stage=network.stages[2].name))
    conv = cost(doubled).params - cost(changed).params
    assert cost(changed).params - cost(network).params == expected - conv


def test_the_same_network_at_another_size_has_other_macs() -> None:
    one, other = (cost(read_network("resnet18", input_shape=(3, size, size), num_classes=10)) for size in (32, 48))
    assert one.params == other.params
    assert other.macs == pytest.approx(one.macs * 2.25, rel=0.01)
