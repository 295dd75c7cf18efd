"""The stem for small images: the first two halvings go, so that stages see 32, 16, 8 and 4 as in the paper.

Which modules halve the maps, and what has to become of them, is found from what the base does. In a ResNet that is
a 3x3 convolution of stride 1 without pooling; in a ConvNeXt a 3x3 convolution in place of the 4x4 patches; where a stem
halves only once, as in EfficientNet or RegNet, the first stage that halves keeps the resolution, too.
"""

from collections.abc import Mapping
from math import log2
from typing import Any

from timm.layers.blur_pool import BlurPool2d
from torch import Tensor, nn

from buildup.graph.network import Shrink
from buildup.models.trace import Call

GAIN = 4
"""By how much the small stem makes the maps of all stages larger."""

POOLS = (nn.MaxPool2d, nn.AvgPool2d, BlurPool2d)


def find_shrunk(root: Call) -> dict[str, Shrink]:
    """What the small stem changes in a traced base, by path; nothing where the first halvings are of other sorts."""
    halvings = [call for call in root.inside if _halves(call) and _reduction(root, call.inputs_of) < GAIN]
    if not halvings or max(_reduction(root, call.outputs_of) for call in halvings) != GAIN:
        return {}
    found = {call.path: _change(root, call) for call in halvings}
    pooled = [call.inputs_of for call in halvings if found[call.path] == "none"]
    # What only prepares a pooling that goes, goes with it: padding, or the maximum before a blur.
    prepares = (
        call for call in root.inside if any(call.outputs_of is inputs_of for inputs_of in pooled) and _prepares(call)
    )
    return found | {call.path: "none" for call in prepares}


def shrink(model: Any, shrunk: Mapping[str, str]) -> None:
    """Give a base the small stem, in place."""
    for path, change in shrunk.items():
        if change == "none":
            parent, _, name = path.rpartition(".")
            # Emptied and not taken out: timm counts the modules of some stems.
            setattr(model.get_submodule(parent), name, nn.Identity())
        else:
            shrink_conv(model.get_submodule(path), change)
    if shrunk and getattr(model, "feature_info", None):
        # A number and no name: exported files carry the text of this function alone.
        model.feature_info = [info | {"reduction": max(1, info["reduction"] // 4)} for info in model.feature_info]


def shrink_conv(conv: Any, change: str) -> None:
    """Make a convolution one of stride 1, in place, and of 3x3 where asked; its class and other settings stay."""
    conv.stride = (1, 1)
    if change == "3x3":
        conv.kernel_size = (3, 3)
        conv.weight = nn.Parameter(conv.weight.new_empty(*conv.weight.shape[:2], 3, 3))
        nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
    if not type(conv).__name__.endswith("Same"):  # these pad by themselves
        conv.padding = tuple(side // 2 * step for side, step in zip(conv.kernel_size, conv.dilation, strict=True))


def _halves(call: Call) -> bool:
    if not isinstance(call.module, (nn.Conv2d, *POOLS)) or call.inputs_of is None or call.outputs_of is None:
        return False
    return call.inputs_of.ndim == 4 and bool(call.inputs_of.shape[-1] > 1.4 * call.outputs_of.shape[-1])


def _reduction(root: Call, tensor: Tensor | None) -> int:
    """How many times smaller than the picture a map is, to the nearest power of 2: borders may cost some points."""
    assert root.inputs_of is not None
    assert tensor is not None
    return int(2 ** round(log2(root.inputs_of.shape[-1] / tensor.shape[-1])))


def _change(root: Call, call: Call) -> Shrink:
    if not isinstance(call.module, nn.Conv2d):
        return "none"
    side = max(call.module.kernel_size)
    reads_picture = _reduction(root, call.inputs_of) == 1
    return "3x3" if side % 2 == 0 or (reads_picture and side > 3) else "stride 1"


def _prepares(call: Call) -> bool:
    if isinstance(call.module, POOLS):
        return True
    weightless = not call.calls and not any(True for _ in call.module.parameters())
    return (
        weightless
        and call.inputs_of is not None
        and call.outputs_of is not None
        and call.inputs_of.shape[-1] < call.outputs_of.shape[-1]
    )
