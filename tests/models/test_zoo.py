from typing import Any

import pytest
import timm
import torch

from buildup.graph.layout import layout
from buildup.graph.serialize import network_to_values
from buildup.models.build import build
from buildup.models.zoo import PAPER, paper_network


@pytest.mark.parametrize("name", PAPER)
def test_timm_knows_the_papers_networks_by_name(name: str) -> None:
    assert timm.is_model(name)


def test_a_network_of_the_paper_comes_with_its_own_input_and_classes() -> None:
    model: Any = timm.create_model("alter_resnet50_cifar", device="meta")
    assert sum(parameter.numel() for parameter in model.parameters()) == 33_012_840
    assert model.pretrained_cfg["input_size"] == (3, 32, 32)
    assert model.num_classes == 100


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("alter_resnet18", "CC|CM|CM|CM"),
        ("alter_resnet50", "CCC|CCCM|CMCMCM|CMCM"),
        ("alter_resnet50_cifar", "CCC|CCCM|CCCCCM|CMCM"),
    ],
)
def test_the_layouts_are_those_of_the_paper(name: str, expected: str) -> None:
    assert layout(paper_network(name)) == expected


def test_any_network_is_a_timm_model_by_its_values() -> None:
    network = paper_network("alter_resnet18", input_shape=(3, 32, 32), num_classes=10)
    model = timm.create_model("alternet", network=network_to_values(network), num_classes=4).eval()
    assert model(torch.randn(1, 3, 32, 32)).shape == (1, 4)
    assert model.state_dict().keys() == build(network, device="meta").state_dict().keys()


def test_a_network_made_by_timm_says_how_to_make_it_again() -> None:
    model: Any = timm.create_model("alter_resnet18", device="meta")
    assert model.pretrained_cfg["architecture"] == "alternet"
    again = timm.create_model("alternet", device="meta", **model._model_args)
    assert again.state_dict().keys() == model.state_dict().keys()


@pytest.mark.parametrize(("name", "size", "pool"), [("alter_resnet34", 224, 7), ("alter_resnet50_cifar", 32, 4)])
def test_timm_tells_of_the_papers_networks_without_making_them(name: str, size: int, pool: int) -> None:
    told: Any = timm.get_pretrained_cfg(name)
    assert (told.input_size, told.pool_size) == ((3, size, size), (pool, pool))
    model: Any = timm.create_model(name, device="meta")
    assert model.pretrained_cfg["pool_size"] == (pool, pool)
    assert model.forward_features(torch.empty(1, 3, size, size, device="meta")).shape[2:] == (pool, pool)
    assert (told.first_conv, told.classifier) == (
        model.pretrained_cfg["first_conv"],
        model.pretrained_cfg["classifier"],
    )
