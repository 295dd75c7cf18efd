"""The networks that the paper compares with on CIFAR (paper.md 6), under names of timm's.

| name | is | parameters for 100 classes |
| --- | --- | --- |
| `vit_tiny_cifar` | ViT-Ti, patches of 2 px and a class token | 5.403M |
| `vit_tiny_patch4_cifar` | the same with patches of 4 px | 5.373M |
| `vit_small_cifar` | ViT-S | 21.423M |
| `pit_tiny_cifar` | PiT-Ti | 4.577M |
| `swin_tiny_cifar` | Swin-Ti, patches of 1 px and windows of 4 | 27.562M |
| `mixer_tiny_cifar` | MLP-Mixer-Ti | 4.770M |
| `resnet50_cifar` | timm's ResNet-50 with the small stem | 23.705M |
| `resnext50_cifar` | ResNeXt-50 32x4d with the small stem | 23.177M |

All but the last two are timm's classes with sizes of the paper's; their attention has no bias on queries, keys and
values, as in the reference code. Swin keeps timm's right mask for shifted windows, and a table of positions a head.
"""

from typing import Any

import torch
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from timm.models.mlp_mixer import MlpMixer
from timm.models.pit import PoolingVisionTransformer
from timm.models.swin_transformer import SwinTransformer
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from buildup.models.build import base_config, create
from buildup.models.read import read
from buildup.models.zoo import CIFAR

TRANSFORMERS = {
    "vit_tiny_cifar": ("patch_embed.proj", "head"),
    "vit_tiny_patch4_cifar": ("patch_embed.proj", "head"),
    "vit_small_cifar": ("patch_embed.proj", "head"),
    "pit_tiny_cifar": ("patch_embed.conv", "head"),
    "swin_tiny_cifar": ("patch_embed.proj", "head.fc"),
    "mixer_tiny_cifar": ("stem.proj", "head"),
}
"""With their first convolution and their classifier."""
RESNETS = {"resnet50_cifar": "resnet50", "resnext50_cifar": "resnext50_32x4d"}

_SHAPE, _CLASSES = CIFAR

_TOLD: dict[str, Any] = {
    name: {
        "input_size": _SHAPE,
        "num_classes": _CLASSES,
        "fixed_input_size": True,
        "mean": (0.5071, 0.4867, 0.4408),
        "std": (0.2675, 0.2565, 0.2761),
        "first_conv": first,
        "classifier": classifier,
    }
    for name, (first, classifier) in TRANSFORMERS.items()
}
default_cfgs = generate_default_cfgs(
    _TOLD | {name: base_config(base, _SHAPE, _CLASSES, reduction=1 / 4) for name, base in RESNETS.items()}
)
"""What timm tells of the names without making a model."""


@register_model
def vit_tiny_cifar(pretrained: bool = False, **overrides: Any) -> nn.Module:
    """ViT-Ti: 256 tokens of 2 x 2 pixels and a class token."""
    return _vit("vit_tiny_cifar", pretrained, {"patch_size": 2, "embed_dim": 192, "num_heads": 3} | overrides)


@register_model
def vit_tiny_patch4_cifar(pretrained: bool = False, **overrides: Any) -> nn.Module:
    """ViT-Ti with 64 tokens of 4 x 4 pixels."""
    return _vit("vit_tiny_patch4_cifar", pretrained, {"patch_size": 4, "embed_dim": 192, "num_heads": 3} | overrides)


@register_model
def vit_small_cifar(pretrained: bool = False, **overrides: Any) -> nn.Module:
    """ViT-S: twice as wide as ViT-Ti."""
    return _vit("vit_small_cifar", pretrained, {"patch_size": 2, "embed_dim": 384, "num_heads": 6} | overrides)


@register_model
def pit_tiny_cifar(pretrained: bool = False, **overrides: Any) -> nn.Module:
    """PiT-Ti: patches of 2 x 2 pixels at every pixel, and three resolutions."""
    sizes = {
        "patch_size": 2,
        "stride": 1,
        "base_dims": (32, 32, 32),
        "depth": (2, 6, 4),
        "heads": (2, 4, 8),
        "mlp_ratio": 4,
    }
    model = _made(PoolingVisionTransformer, "pit_tiny_cifar", pretrained, sizes | overrides)
    for module in model.modules():
        queries = getattr(module, "qkv", None)
        if isinstance(queries, nn.Linear):  # timm's PiT has no setting for it
            queries.register_parameter("bias", None)
    return model


@register_model
def swin_tiny_cifar(pretrained: bool = False, **overrides: Any) -> nn.Module:
    """Swin-Ti: a token a pixel, and windows of 4 x 4."""
    sizes = {"patch_size": 1, "window_size": 4, "embed_dim": 96, "depths": (2, 2, 6, 2), "num_heads": (3, 6, 12, 24)}
    plain = {"qkv_bias": False, "drop_path_rate": 0.0}
    return _made(SwinTransformer, "swin_tiny_cifar", pretrained, sizes | plain | overrides)


@register_model
def mixer_tiny_cifar(pretrained: bool = False, **overrides: Any) -> nn.Module:
    """MLP-Mixer-Ti: 256 tokens of 2 x 2 pixels, mixed over places and over channels in turns."""
    sizes = {"patch_size": 2, "num_blocks": 8, "embed_dim": 256, "mlp_ratio": (0.5, 4.0)}
    return _made(MlpMixer, "mixer_tiny_cifar", pretrained, sizes | overrides)


@register_model
def resnet50_cifar(pretrained: bool = False, **overrides: Any) -> nn.Module:
    """ResNet-50 whose stages see 32, 16, 8 and 4 pixels."""
    return _small_stem("resnet50_cifar", pretrained, overrides)


@register_model
def resnext50_cifar(pretrained: bool = False, **overrides: Any) -> nn.Module:
    """ResNeXt-50 32x4d whose stages see 32, 16, 8 and 4 pixels."""
    return _small_stem("resnext50_cifar", pretrained, overrides)


def _vit(name: str, pretrained: bool, sizes: dict[str, Any]) -> nn.Module:
    return _made(VisionTransformer, name, pretrained, {"depth": 12, "qkv_bias": False} | sizes)


def _made(kind: type[nn.Module], name: str, pretrained: bool, sizes: dict[str, Any]) -> nn.Module:
    model: nn.Module = build_model_with_cfg(kind, name, pretrained, **({"img_size": _SHAPE[1]} | sizes))
    return model


def _small_stem(name: str, pretrained: bool, overrides: dict[str, Any]) -> nn.Module:
    network = read(RESNETS[name], input_shape=_SHAPE, num_classes=_CLASSES)
    # As timm's own: made where torch makes tensors now, which is how a base is read without memory.
    return create(network, pretrained=pretrained, **{"device": torch.get_default_device()} | overrides)
