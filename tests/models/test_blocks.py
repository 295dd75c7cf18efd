from collections.abc import Mapping
from dataclasses import dataclass

import pytest
import timm
import torch
from torch import nn

from buildup.graph.kinds import LocalAttention
from buildup.graph.network import Network, apply, replacement
from buildup.models.blocks import PostActAttentionBlock, PreActAttentionBlock
from buildup.models.build import build
from buildup.models.layers import LocalAttention2d
from buildup.models.read import read_network


@dataclass(frozen=True, kw_only=True)
class Case:
    base: str
    path: str
    block: type[nn.Module]
    norm: type[nn.Module]
    width: int
    identity: bool
    """Whether timm lets the blocks of this base start as the identity."""
    args: Mapping[str, object]


SMALL = {"layers": [2, 2, 2, 2]}
CASES = [
    Case(base="resnet18", path="layer4.1", block=PostActAttentionBlock, norm=nn.BatchNorm2d, width=512, identity=True,
         args={}),
    Case(base="resnet26", path="layer3.1", block=PostActAttentionBlock, norm=nn.BatchNorm2d, width=256, identity=True,
         args={}),
    Case(base="resnet50_gn", path="layer1.1", block=PostActAttentionBlock, norm=nn.GroupNorm, width=64, identity=True,
         args=SMALL),
    Case(base="resnetv2_18", path="stages.3.blocks.1", block=PreActAttentionBlock, norm=nn.BatchNorm2d, width=512,
         identity=False, args={}),
    Case(base="resnetv2_18", path="stages.3.blocks.1", block=PreActAttentionBlock, norm=nn.BatchNorm2d, width=512,
         identity=True, args={"zero_init_last": True}),
    Case(base="resnetv2_50d_gn", path="stages.1.blocks.1", block=PreActAttentionBlock, norm=nn.GroupNorm, width=128,
         identity=False, args=SMALL),
    Case(base="resnetv2_50d_evos", path="stages.1.blocks.1", block=PreActAttentionBlock, norm=nn.GroupNorm, width=128,
         identity=False, args=SMALL),
    Case(base="resnetv2_50", path="stages.1.blocks.1", block=PostActAttentionBlock, norm=nn.BatchNorm2d, width=128,
         identity=True, args=SMALL | {"preact": False, "zero_init_last": True}),
]  # fmt: skip


def replaced(case: Case) -> Network:
    network = read_network(case.base, input_shape=(3, 32, 32), num_classes=10, base_args=case.args)
    return apply(network, replacement(network, case.path, LocalAttention(heads=3, head_size=8, window=4)))


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.base}-{case.args}")
def test_a_block_keeps_the_habits_of_the_one_it_replaces(case: Case) -> None:
    block = build(replaced(case), seed=0).get_submodule(case.path)
    assert type(block) is case.block
    assert {type(module) for name, module in block.named_children() if "norm" in name} == {case.norm}
    attention = block.get_submodule("attention")
    assert isinstance(attention, LocalAttention2d)
    assert attention.qkv.weight.shape == (3 * 24, case.width, 1, 1)


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.base}-{case.args}")
def test_a_block_starts_as_the_identity_where_timms_own_does(case: Case) -> None:
    block = build(replaced(case), seed=0).get_submodule(case.path)
    channels = int(next(iter(block.parameters())).shape[0 if case.block is PreActAttentionBlock else 1])
    x = torch.rand(2, channels, 4, 4)
    assert torch.equal(block(x), x) == case.identity


def test_the_post_activation_form_gives_the_next_block_what_it_expects() -> None:
    block = build(replaced(CASES[0]), seed=0).get_submodule("layer4.1")
    nn.init.ones_(block.get_parameter("norm2.weight"))
    y = block(torch.randn(2, 512, 4, 4))
    assert y.min() == 0
    assert y.max() > 0


def test_weights_of_the_reducing_convolution_are_standardised_where_the_bases_are() -> None:
    network = read_network("resnetv2_50x1_bit", input_shape=(3, 32, 32), num_classes=10)
    path = "stages.3.blocks.2"
    network = apply(network, replacement(network, path, LocalAttention(heads=24, window=4)))
    block = build(network, device="meta").get_submodule(path)
    old = timm.create_model("resnetv2_50x1_bit", device="meta").get_submodule(path)
    assert type(block.get_submodule("conv")) is type(old.get_submodule("conv1"))
    assert block.get_submodule("conv").eps == 1e-8


def test_stochastic_depth_is_that_of_the_replaced_block() -> None:
    for base, path in (("resnet18", "layer4.1"), ("resnetv2_18", "stages.3.blocks.1")):
        network = read_network(base, input_shape=(3, 32, 32), num_classes=10)
        network = apply(network, replacement(network, path, LocalAttention(heads=3, window=4)))
        plain = timm.create_model(base, drop_path_rate=0.3).get_submodule(path)
        block = build(network, drop_path_rate=0.3).get_submodule(path)
        assert block.get_submodule("drop_path").drop_prob == plain.get_submodule("drop_path").drop_prob


def test_queries_start_apart_from_keys_and_values_as_two_convolutions_would() -> None:
    block = build(replaced(CASES[0]), seed=0).get_submodule("layer4.1")
    weight = block.get_parameter("attention.qkv.weight").detach()
    assert weight[:24].std().item() == pytest.approx((2 / 24) ** 0.5, rel=0.05)
    assert weight[24:].std().item() == pytest.approx((2 / 48) ** 0.5, rel=0.05)
