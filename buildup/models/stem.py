"""The stem for small images: the first two halvings are removed, so ResNet's stages see 32, 16, 8 and 4 px.

The traced dataflow shows which modules halve the maps and how to change them. In a ResNet the result is a 3x3
convolution of stride 1 without pooling; in a ConvNeXt a 3x3 convolution in place of the 4x4 patches. Where the stem
halves only once, as in EfficientNet or RegNet, the first halving stage keeps the resolution, too.
"""

from collections.abc import Mapping
from math import log2
from typing import Any

from timm.layers.blur_pool import BlurPool2d
from torch import Tensor, nn

from buildup.graph.network import Shrink
from buildup.models.trace import Call

GAIN = 4
"""How many times larger the maps of all stages become."""

POOLS = (nn.MaxPool2d, nn.AvgPool2d, BlurPool2d)


def find_small_stem(root: Call) -> dict[str, Shrink]:
    """The changes of the small stem in a traced base, by path; empty if its first halvings cannot be removed."""
    halvings = [call for call in root.inside if _halves(call) and _reduction(root, call.input) < GAIN]
    if not halvings or max(_reduction(root, call.output) for call in halvings) != GAIN:
        return {}
    found: dict[str, Shrink] = {}
    for call in halvings:
        found[call.path] = "none"
        if isinstance(call.module, nn.Conv2d):
            side = max(call.module.kernel_size)
            is_first = _reduction(root, call.input) == 1
            found[call.path] = "3x3" if side % 2 == 0 or (is_first and side > 3) else "stride 1"
    pooled = [call.input for call in halvings if found[call.path] == "none"]
    # Padding, or a maximum before a blur, only prepares a pooling and is removed with it.
    for call in root.inside:
        if call.output is None or not any(call.output is tensor for tensor in pooled):
            continue
        is_plain = not call.calls and next(call.module.parameters(), None) is None
        pads = is_plain and call.input is not None and call.input.shape[-1] < call.output.shape[-1]
        if pads or isinstance(call.module, POOLS):
            found[call.path] = "none"
    return found


def apply_small_stem(model: Any, shrunk: Mapping[str, str]) -> None:
    """Give a base the small stem, in place: convolutions get stride 1, and for the change `3x3` that kernel."""
    for path, change in shrunk.items():
        if change == "none":
            # Replaced and not removed, because timm counts the modules of some stems.
            model.set_submodule(path, nn.Identity())
        else:
            conv = model.get_submodule(path)
            conv.stride = (1, 1)
            if change == "3x3":
                conv.kernel_size = (3, 3)
                conv.weight = nn.Parameter(conv.weight.new_empty(*conv.weight.shape[:2], 3, 3))
                nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
            if not type(conv).__name__.endswith("Same"):  # these pad by themselves
                conv.padding = tuple(
                    side // 2 * step for side, step in zip(conv.kernel_size, conv.dilation, strict=True)
                )
    if shrunk and getattr(model, "feature_info", None):
        # GAIN as a number: exported files contain only the text of this function.
        model.feature_info = [info | {"reduction": max(1, info["reduction"] // 4)} for info in model.feature_info]


def _halves(call: Call) -> bool:
    if not isinstance(call.module, (nn.Conv2d, *POOLS)) or call.input is None or call.output is None:
        return False
    return call.input.ndim == 4 and bool(call.input.shape[-1] > 1.4 * call.output.shape[-1])


def _reduction(root: Call, tensor: Tensor | None) -> int:
    """How many times smaller than the image a map is, to the nearest power of 2, since borders may cost some pixels."""
    assert root.input is not None
    assert tensor is not None
    return int(2 ** round(log2(root.input.shape[-1] / tensor.shape[-1])))
