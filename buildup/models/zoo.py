"""Our models in timm: `alternet` for any network, the paper's AlterNets, and the CIFAR models that it compares with.

| name | is | parameters for 100 classes |
| --- | --- | --- |
| `vit_tiny_cifar` | ViT-Ti, patches of 2 px and a class token | 5.403M |
| `vit_tiny_patch4_cifar` | the same with patches of 4 px | 5.373M |
| `vit_tiny_patch8_cifar` | the same with patches of 8 px | 5.392M |
| `convit_tiny_k3_cifar` | ViT-Ti, patches of 4 px that attend to the 3 x 3 around, mean pooling | 5.373M |
| `convit_tiny_k5_cifar` | the same, attention to the 5 x 5 around | 5.373M |
| `convit_tiny_k8_cifar` | the same, attention to all 8 x 8 | 5.373M |
| `vit_small_cifar` | ViT-S, twice as wide as ViT-Ti | 21.423M |
| `pit_tiny_cifar` | PiT-Ti, overlapping patches of 2 px | 4.577M |
| `swin_tiny_cifar` | Swin-Ti, patches of 1 px and windows of 4 | 27.562M |
| `mixer_tiny_cifar` | MLP-Mixer-Ti, patches of 2 px | 4.770M |
| `resnet50_cifar` | timm's ResNet-50 with the small stem | 23.705M |
| `resnext50_cifar` | ResNeXt-50 32x4d with the small stem | 23.177M |
| `resnet18_mlp_cifar` | ResNet-18 with the small stem, and an MLP on the whole last map | 15.415M |
| `resnet50_mlp_cifar` | ResNet-50 in the same way | 40.329M |

The transformers and the mixer are timm's classes with the paper's sizes. Their attention has no bias on
queries, keys and values, as in the reference code. Swin keeps timm's correct mask for shifted windows, and a table of
positions for each head. ConViT is the paper's own, not the network of that name in timm. Nothing attends to places
outside of the map, where the reference code attends to zeros.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import isqrt
from typing import Any, ClassVar

import torch
from timm.layers.attention import Attention
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from timm.models.mlp_mixer import MlpMixer
from timm.models.pit import PoolingVisionTransformer
from timm.models.swin_transformer import SwinTransformer
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from buildup.graph.kinds import LocalAttention
from buildup.graph.network import Append, Network, Shape, apply, replacement
from buildup.graph.serialize import network_from_values
from buildup.models.build import base_config, build
from buildup.models.read import read_network

PAPER: Mapping[str, tuple[str, int, tuple[int, ...]]] = {
    "alter_resnet18": ("resnetv2_18", 0, (0, 1, 1, 1)),
    "alter_resnet34": ("resnetv2_34", 1, (0, 1, 3, 2)),
    "alter_resnet50": ("resnetv2_50", 1, (0, 1, 3, 2)),
    "alter_resnet50_cifar": ("resnetv2_50", 1, (0, 1, 1, 2)),
    "alter_resnet101": ("resnetv2_101", 1, (0, 1, 3, 2)),
    "alter_resnet152": ("resnetv2_152", 1, (0, 1, 3, 2)),
}
"""The networks of the paper: the base, the blocks added to its last stage so that it alternates evenly, and the
attention blocks of each stage at n-1, n-3, ..."""
RESNETS = {
    "resnet50_cifar": "resnet50",
    "resnext50_cifar": "resnext50_32x4d",
    "resnet18_mlp_cifar": "resnet18",
    "resnet50_mlp_cifar": "resnet50",
}
MLP_SIDE, MLP_WIDTH = 4, 512
"""The map that an MLP head reads, which is the last one for images of 32 px, and its hidden channels."""


class NearAttention(Attention):
    """timm's attention, with the same weights, in which each token of a square map attends to the k x k around it."""

    kernel: ClassVar[int] = 3

    def forward(self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False) -> Tensor:
        """(images, tokens, channels) to the same shape."""
        side, reach = isqrt(x.shape[1]), self.kernel // 2
        place = torch.arange(side, device=x.device)
        far = (place[:, None] - place).abs() > reach
        far = (far[:, None, :, None] | far[None, :, None, :]).reshape(side * side, side * side)
        near = x.new_zeros(far.shape).masked_fill(far, float("-inf"))
        result: Tensor = super().forward(x, attn_mask=near if attn_mask is None else near + attn_mask)
        return result


class NearAttention5(NearAttention):
    """The same with the 5 x 5 around. timm takes a class, without settings."""

    kernel: ClassVar[int] = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Transformer:
    """A transformer or mixer for CIFAR: a class of timm with the paper's sizes."""

    module: type[nn.Module]
    first_conv: str
    classifier: str = "head"
    sizes: Mapping[str, Any]


def _vit(**sizes: Any) -> Transformer:
    depth = {"depth": 12, "qkv_bias": False}
    return Transformer(module=VisionTransformer, first_conv="patch_embed.proj", sizes={**depth, **sizes})


def _convit(attention: type[Attention]) -> Transformer:
    """The paper's study of locality: a ViT whose patches attend to the patches around them, or to all."""
    pooled = {"class_token": False, "global_pool": "avg"}
    return _vit(patch_size=4, embed_dim=192, num_heads=3, attn_layer=attention, **pooled)


TRANSFORMERS = {
    "vit_tiny_cifar": _vit(patch_size=2, embed_dim=192, num_heads=3),
    "vit_tiny_patch4_cifar": _vit(patch_size=4, embed_dim=192, num_heads=3),
    "vit_tiny_patch8_cifar": _vit(patch_size=8, embed_dim=192, num_heads=3),
    "convit_tiny_k3_cifar": _convit(NearAttention),
    "convit_tiny_k5_cifar": _convit(NearAttention5),
    "convit_tiny_k8_cifar": _convit(Attention),
    "vit_small_cifar": _vit(patch_size=2, embed_dim=384, num_heads=6),
    "pit_tiny_cifar": Transformer(
        module=PoolingVisionTransformer,
        first_conv="patch_embed.conv",
        sizes={
            "patch_size": 2,
            "stride": 1,
            "base_dims": (32, 32, 32),
            "depth": (2, 6, 4),
            "heads": (2, 4, 8),
            "mlp_ratio": 4,
        },
    ),
    "swin_tiny_cifar": Transformer(
        module=SwinTransformer,
        first_conv="patch_embed.proj",
        classifier="head.fc",
        sizes={
            "patch_size": 1,
            "window_size": 4,
            "embed_dim": 96,
            "depths": (2, 2, 6, 2),
            "num_heads": (3, 6, 12, 24),
            "qkv_bias": False,
            "drop_path_rate": 0.0,
        },
    ),
    "mixer_tiny_cifar": Transformer(
        module=MlpMixer,
        first_conv="stem.proj",
        sizes={"patch_size": 2, "num_blocks": 8, "embed_dim": 256, "mlp_ratio": (0.5, 4.0)},
    ),
}

IMAGENET: tuple[Shape, int] = ((3, 224, 224), 1000)
CIFAR: tuple[Shape, int] = ((3, 32, 32), 100)


def _config(name: str) -> dict[str, Any]:
    if name in TRANSFORMERS:
        return {
            "input_size": CIFAR[0],
            "num_classes": CIFAR[1],
            "fixed_input_size": True,
            "mean": (0.5071, 0.4867, 0.4408),
            "std": (0.2675, 0.2565, 0.2761),
            "first_conv": TRANSFORMERS[name].first_conv,
            "classifier": TRANSFORMERS[name].classifier,
        }
    base = RESNETS[name] if name in RESNETS else PAPER[name][0]
    if name.endswith("cifar"):
        head = {"classifier": "fc.2"} if "_mlp_" in name else {}
        return base_config(base, *CIFAR, reduction=1 / 4) | head
    return base_config(base, *IMAGENET)


default_cfgs = generate_default_cfgs({name: _config(name) for name in (*PAPER, *RESNETS, *TRANSFORMERS)})
"""timm reads it when a model is registered."""


def paper_network(name: str, *, input_shape: Shape = (3, 224, 224), num_classes: int = 1000) -> Network:
    """A network of the paper, with windows of 7, or of 4 for small images."""
    base, added, replaced = PAPER[name]
    network = read_network(base, input_shape=input_shape, num_classes=num_classes)
    window = 4 if network.stem == "small" else 7
    for _ in range(added):
        network = apply(network, Append(stage=network.stages[-1].name))
    for number, count in enumerate(replaced):
        stage = network.stages[number]
        for position in stage.positions()[:count]:
            kind = LocalAttention(heads=3 * 2**number, window=window)
            network = apply(network, replacement(network, stage.blocks[position].path, kind))
    return network


@register_model
def alternet(pretrained: bool = False, *, network: Mapping[str, Any], **overrides: Any) -> nn.Module:
    """The timm model of a network given as plain values, as `graph/serialize.py` writes them."""
    return build(network_from_values(dict(network)), pretrained=pretrained, **overrides)


def put_mlp_head(model: Any, device: torch.device | str) -> None:
    model.global_pool = nn.Sequential(nn.AdaptiveAvgPool2d(MLP_SIDE), nn.Flatten())
    model.fc = nn.Sequential(
        nn.Linear(model.num_features * MLP_SIDE**2, MLP_WIDTH, device=device),
        nn.ReLU(),
        nn.Linear(MLP_WIDTH, model.num_classes, device=device),
    )


def _register(name: str) -> None:
    def network_entry(pretrained: bool = False, **overrides: Any) -> nn.Module:
        shape, classes = CIFAR if name.endswith("cifar") else IMAGENET
        if name in RESNETS:
            network = read_network(RESNETS[name], input_shape=shape, num_classes=classes)
        else:
            network = paper_network(name, input_shape=shape, num_classes=classes)
        # timm's own models, too, are made on torch's default device.
        device = overrides.setdefault("device", torch.get_default_device())
        model = build(network, pretrained=pretrained, **overrides)
        if "_mlp_" in name:
            put_mlp_head(model, device)
        return model

    def transformer_entry(pretrained: bool = False, **overrides: Any) -> nn.Module:
        transformer = TRANSFORMERS[name]
        sizes = {"img_size": CIFAR[0][1], **transformer.sizes, **overrides}
        model: nn.Module = build_model_with_cfg(transformer.module, name, pretrained, **sizes)
        if isinstance(model, PoolingVisionTransformer):  # timm's PiT has no setting for the bias of queries
            for module in model.modules():
                queries = getattr(module, "qkv", None)
                if isinstance(queries, nn.Linear):
                    queries.register_parameter("bias", None)
        return model

    entry = transformer_entry if name in TRANSFORMERS else network_entry
    entry.__name__ = name
    register_model(entry)


for _name in default_cfgs:
    _register(_name)
