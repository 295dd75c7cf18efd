from typing import Any

import pytest
import timm
import torch

from buildup.errors import BaseError
from buildup.graph.edit import Append, apply, replacement
from buildup.graph.kinds import Conv, LocalAttention
from buildup.graph.network import Network
from buildup.models.build import build
from buildup.models.read import bases, catalogue, read, refusal


def test_a_resnet_is_read_with_the_paths_and_shapes_that_timm_gives_it() -> None:
    network = read("resnet50", input_shape=(3, 224, 224), num_classes=1000)
    assert [stage.name for stage in network.stages] == ["layer1", "layer2", "layer3", "layer4"]
    assert [len(stage.blocks) for stage in network.stages] == [3, 4, 6, 3]
    block = network.block("layer4.2")
    assert (block.module, block.in_shape, block.out_shape) == ("Bottleneck", (2048, 7, 7), (2048, 7, 7))
    assert network.block("layer4.0").in_shape == (1024, 14, 14)
    assert network.stem == "base"


def test_a_pre_activation_resnet_is_read_with_the_paths_that_timm_gives_it() -> None:
    network = read("resnetv2_50", input_shape=(3, 32, 32), num_classes=100)
    assert [stage.name for stage in network.stages] == ["stages.0", "stages.1", "stages.2", "stages.3"]
    assert network.block("stages.3.blocks.2").module == "PreActBottleneck"
    assert [stage.size for stage in network.stages] == [(32, 32), (16, 16), (8, 8), (4, 4)]
    assert network.edges[0] == ("stem", "stages.0.blocks.0")
    assert network.edges[-1] == ("stages.3.blocks.2", "head")


@pytest.mark.parametrize(
    ("size", "stem", "chosen"),
    [(64, "auto", "small"), (65, "auto", "base"), (32, "base", "base"), (224, "small", "small")],
)
def test_small_images_get_the_small_stem_unless_told_otherwise(size: int, stem: str, chosen: str) -> None:
    network = read("resnet18", input_shape=(3, size, size), num_classes=10, stem=stem)  # type: ignore[arg-type]
    assert network.stem == chosen


@pytest.mark.parametrize(
    ("name", "base"),
    [
        ("resnet50.a1_in1k", "resnet50"),
        ("resnet50d.untrained", "resnet50d"),
        ("resnet50t.untrained", "resnet50t"),
        ("gluon_resnet50_v1b", "resnet50"),
    ],
)
def test_tags_and_old_names_lead_to_the_same_network(name: str, base: str) -> None:
    shape = {"input_shape": (3, 32, 32), "num_classes": 10}
    assert read(name, **shape) == read(base, **shape)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("resnet5O", "did you mean 'resnet50'"),
        ("resnet50.a9_in1k", "Known: a1_in1k, a1h_in1k"),
        ("", "unknown base ''"),
        ("local-dir:/nowhere", "unknown base"),
        ("vit_tiny_patch16_224", "has no convolutional stages"),
        ("swin_tiny_patch4_window7_224", "has no convolutional stages"),
        ("mixer_b16_224", "has no convolutional stages"),
        ("vgg11", "timm's class VGG"),
        ("convnext_atto", "timm's class ConvNeXt"),
        ("hrnet_w18_small", "timm's class HighResolutionNet"),
        ("skresnet18", "SelectiveKernelBasic blocks"),
        ("alter_resnet18", "PreActAttentionBlock blocks"),
    ],
)
def test_a_model_that_cannot_be_a_base_is_refused_with_the_reason(name: str, says: str) -> None:
    with pytest.raises(BaseError, match=says):
        read(name, input_shape=(3, 32, 32), num_classes=10)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"colour": 1}, "unexpected keyword argument 'colour'"),
        ({"num_classes": 5}, "num_classes, which the network itself says"),
        ({"norm_layer": "layernorm2d"}, "normalises by LayerNorm2d; attention blocks know BatchNorm2d"),
    ],
)
def test_base_arguments_that_do_not_fit_are_refused(arguments: dict[str, object], says: str) -> None:
    with pytest.raises(BaseError, match=says):
        read("resnet18", input_shape=(3, 32, 32), num_classes=10, base_args=arguments)


def test_a_name_that_can_be_a_base_is_not_refused() -> None:
    assert refusal("resnet50") is None


def test_a_name_that_cannot_be_a_base_is_refused_with_a_reason() -> None:
    assert "no convolutional stages" in str(refusal("mixer_b16_224"))
    assert "unknown base 'nothing'" in str(refusal("nothing"))


def test_the_catalogue_lists_every_name_of_timm_with_its_family_and_a_verdict() -> None:
    rows = catalogue()
    assert len(rows) == len(timm.list_models())
    assert {row.name for row in rows if row.reason is None} == set(bases())


def everywhere(network: Network) -> Network:
    """The network with attention wherever it may stand, and a block more where one can follow."""
    for number, stage in enumerate(network.stages):
        for position in stage.positions(step=1):
            if isinstance(stage.blocks[position].kind, Conv):
                kind = LocalAttention(heads=number + 1, head_size=8, window=min(4, *stage.size))
                network = apply(network, replacement(network, stage.blocks[position].path, kind))
        if stage.blocks[-1].keeps_shape:
            network = apply(network, Append(stage=stage.name))
    return network


@pytest.mark.slow
@pytest.mark.parametrize("size", [32, 224])
@pytest.mark.parametrize("base", bases())
def test_every_listed_name_can_be_read_edited_and_built(base: str, size: int) -> None:
    network = everywhere(read(base, input_shape=(3, size, size), num_classes=10))
    model: Any = build(network, device="meta", features_only=True)
    features = model(torch.empty(1, 3, size, size, device="meta"))
    assert [size // feature.shape[2] for feature in features] == model.feature_info.reduction()
