"""The names under which timm knows our networks: `alternet` for any of them, and the paper's own by theirs."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from timm.models import generate_default_cfgs, register_model
from torch import nn

from buildup.graph.kinds import LocalAttention
from buildup.graph.network import Append, Network, Shape, apply, replacement
from buildup.graph.serialize import network_from_values
from buildup.models.build import base_config, create
from buildup.models.read import read


@dataclass(frozen=True, slots=True, kw_only=True)
class Paper:
    """A network of the paper: what it changes in which base (paper.md 2.4)."""

    base: str
    added: int
    """Blocks added to the last stage, so that it alternates evenly."""
    replaced: tuple[int, int, int, int]
    """Attention blocks of each stage, at n-1, n-3, ..."""


PAPER = {
    "alter_resnet18": Paper(base="resnetv2_18", added=0, replaced=(0, 1, 1, 1)),
    "alter_resnet34": Paper(base="resnetv2_34", added=1, replaced=(0, 1, 3, 2)),
    "alter_resnet50": Paper(base="resnetv2_50", added=1, replaced=(0, 1, 3, 2)),
    "alter_resnet50_cifar": Paper(base="resnetv2_50", added=1, replaced=(0, 1, 1, 2)),
    "alter_resnet101": Paper(base="resnetv2_101", added=1, replaced=(0, 1, 3, 2)),
    "alter_resnet152": Paper(base="resnetv2_152", added=1, replaced=(0, 1, 3, 2)),
}


IMAGENET: tuple[Shape, int] = ((3, 224, 224), 1000)
CIFAR: tuple[Shape, int] = ((3, 32, 32), 100)

default_cfgs = generate_default_cfgs(
    {
        name: base_config(paper.base, *CIFAR, reduction=1 / 4)
        if name.endswith("cifar")
        else base_config(paper.base, *IMAGENET)
        for name, paper in PAPER.items()
    }
)
"""What timm tells of the names without making a model."""


def paper_network(name: str, *, input_shape: Shape = (3, 224, 224), num_classes: int = 1000) -> Network:
    """A network of the paper, with windows of 7, or of 4 for small images."""
    paper = PAPER[name]
    network = read(paper.base, input_shape=input_shape, num_classes=num_classes)
    window = 4 if network.stem == "small" else 7
    for _ in range(paper.added):
        network = apply(network, Append(stage=network.stages[-1].name))
    for number, count in enumerate(paper.replaced):
        stage = network.stages[number]
        for position in stage.positions()[:count]:
            kind = LocalAttention(heads=3 * 2**number, window=window)
            network = apply(network, replacement(network, stage.blocks[position].path, kind))
    return network


@register_model
def alternet(pretrained: bool = False, *, network: Mapping[str, Any], **overrides: Any) -> nn.Module:
    """The timm model of a network given as plain values, as `graph/serialize.py` writes them."""
    return create(network_from_values(dict(network)), pretrained=pretrained, **overrides)


@register_model
def alter_resnet18(pretrained: bool = False, **overrides: Any) -> nn.Module:
    """Eight basic blocks, three of them attention."""
    return create(paper_network("alter_resnet18"), pretrained=pretrained, **overrides)


@register_model
def alter_resnet34(pretrained: bool = False, **overrides: Any) -> nn.Module:
    """Seventeen basic blocks, six of them attention."""
    return create(paper_network("alter_resnet34"), pretrained=pretrained, **overrides)


@register_model
def alter_resnet50(pretrained: bool = False, **overrides: Any) -> nn.Module:
    """The ImageNet model of the paper: seventeen bottlenecks, six of them attention."""
    return create(paper_network("alter_resnet50"), pretrained=pretrained, **overrides)


@register_model
def alter_resnet50_cifar(pretrained: bool = False, **overrides: Any) -> nn.Module:
    """The CIFAR-100 model of the paper: seventeen bottlenecks, four of them attention."""
    shape, classes = CIFAR
    network = paper_network("alter_resnet50_cifar", input_shape=shape, num_classes=classes)
    return create(network, pretrained=pretrained, **overrides)


@register_model
def alter_resnet101(pretrained: bool = False, **overrides: Any) -> nn.Module:
    """Thirty-four bottlenecks, six of them attention."""
    return create(paper_network("alter_resnet101"), pretrained=pretrained, **overrides)


@register_model
def alter_resnet152(pretrained: bool = False, **overrides: Any) -> nn.Module:
    """Fifty-one bottlenecks, six of them attention."""
    return create(paper_network("alter_resnet152"), pretrained=pretrained, **overrides)
