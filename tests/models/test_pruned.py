"""Bases of our own that are a timm model with other arguments."""

from typing import Any

import pytest

from buildup.graph.layout import layout
from buildup.graph.serialize import network_from_values, network_to_values
from buildup.models.bases import PRUNED
from buildup.models.build import build, feature_config
from buildup.models.read import read_network


@pytest.mark.parametrize("name", PRUNED)
def test_pruned_base_is_a_timm_model_and_comes_back_from_its_file(name: str) -> None:
    network = read_network(name, input_shape=(1, 28, 28), num_classes=3)
    again = network_from_values(network_to_values(network))
    assert again == network
    assert network.base == PRUNED[name][0]
    assert build(again, device="meta").num_classes == 3
    assert layout(network) == "CC|CC"


@pytest.mark.parametrize("name", PRUNED)
def test_features_of_a_pruned_base_end_with_its_last_stage(name: str) -> None:
    network = read_network(name, input_shape=(1, 28, 28), num_classes=3)
    model: Any = build(network, device="meta")
    assert feature_config(network)["out_indices"] == tuple(range(len(model.feature_info)))
