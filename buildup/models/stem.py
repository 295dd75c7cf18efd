"""The stem for small images: 3x3 of stride 1 without pooling, so that stages see 32, 16, 8 and 4 as in the paper."""

from collections.abc import Callable
from typing import Any

from timm.models.resnet import ResNet
from timm.models.resnetv2 import ResNetV2
from torch import nn


def shrink_resnet_stem(model: Any) -> None:
    """Give a timm ResNet the stem for small images, in place."""
    deep = isinstance(model.conv1, nn.Sequential)
    shrink_conv(model.conv1[0] if deep else model.conv1)
    model.maxpool = nn.Identity()
    model.feature_info = shrunk_features(model.feature_info)


def shrink_resnetv2_stem(model: Any) -> None:
    """Give a timm ResNetV2 the stem for small images, in place."""
    shrink_conv(model.stem[0])
    for name in ("pad", "pool"):
        # timm counts the stem's modules to find its feature, so they are emptied and not taken out.
        if name in dict(model.stem.named_children()):
            setattr(model.stem, name, nn.Identity())
    model.feature_info = shrunk_features(model.feature_info)


def shrink_conv(conv: nn.Conv2d) -> None:
    """Make a convolution 3x3 with stride 1, in place: its class and other settings stay.

    A convolution that is 3x3 already, as in deep stems, keeps its weights.
    """
    conv.stride = (1, 1)
    if conv.kernel_size != (3, 3):
        conv.kernel_size = (3, 3)
        conv.padding = (1, 1)
        conv.weight = nn.Parameter(conv.weight.new_empty(*conv.weight.shape[:2], 3, 3))
        nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")


def shrunk_features(feature_info: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """timm's feature table without the strides of the stem: 2 of the first conv, and 2 more of the pooling."""
    first, *later = feature_info
    return [first | {"reduction": 1}, *(info | {"reduction": info["reduction"] // 4} for info in later)]


SMALL_STEMS: dict[type[nn.Module], Callable[[Any], None]] = {
    ResNet: shrink_resnet_stem,
    ResNetV2: shrink_resnetv2_stem,
}
"""For every timm class that can be a base: what gives it the small stem."""
