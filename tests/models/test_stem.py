from typing import Any

import pytest
import timm
import torch
from torch import nn

from buildup.models.build import build
from buildup.models.read import read_network

STEMS = [
    ("resnet18", "conv1"),
    ("resnet50t", "conv1.0"),
    ("resnetrs50", "conv1.0"),
    ("resnetblur50", "conv1"),
    ("senet154", "conv1.0"),
    ("resnetv2_50", "stem.conv"),
    ("resnetv2_50t", "stem.conv1"),
    ("resnetv2_50x1_bit", "stem.conv"),
]


def built(base: str) -> Any:
    return build(read_network(base, input_shape=(3, 32, 32), num_classes=10), device="meta")


@pytest.mark.parametrize(("base", "first"), STEMS)
def test_the_first_convolution_is_3x3_of_stride_1_and_keeps_its_class(base: str, first: str) -> None:
    conv: Any = built(base).get_submodule(first)
    theirs: Any = timm.create_model(base, device="meta").get_submodule(first)
    assert (conv.kernel_size, conv.stride, conv.padding) == ((3, 3), (1, 1), (1, 1))
    assert type(conv) is type(theirs)
    assert conv.weight.shape == (*theirs.weight.shape[:2], 3, 3)


@pytest.mark.parametrize("base", [base for base, _ in STEMS])
def test_the_stages_see_the_whole_image_and_its_halves(base: str) -> None:
    stages = read_network(base, input_shape=(3, 32, 32), num_classes=10).stages
    assert [stage.size for stage in stages] == [(32, 32), (16, 16), (8, 8), (4, 4)]


def test_a_deep_stem_keeps_the_weights_that_fit() -> None:
    torch.manual_seed(0)
    theirs = timm.create_model("resnet18d", num_classes=10).state_dict()
    ours = build(read_network("resnet18d", input_shape=(3, 32, 32), num_classes=10), seed=0).state_dict()
    assert torch.equal(ours["conv1.0.weight"], theirs["conv1.0.weight"])


def test_a_new_first_convolution_starts_as_timm_starts_those_of_a_resnet() -> None:
    model = build(read_network("resnet18", input_shape=(3, 32, 32), num_classes=10), seed=0)
    weight = model.get_parameter("conv1.weight").detach()
    assert float(weight.std()) == pytest.approx((2 / (64 * 9)) ** 0.5, rel=0.1)


def test_nothing_pools_after_the_small_stem() -> None:
    for base in ("resnet18", "resnetv2_50x1_bit"):
        pools = [module for module in built(base).modules() if isinstance(module, nn.MaxPool2d)]
        assert not pools
