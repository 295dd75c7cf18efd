"""The habits of a timm block, read from what it does: its norm, and where its norms and activations stand."""

from collections.abc import Iterator
from typing import Any

from timm.layers import std_conv
from timm.layers.evo_norm import EvoNorm2dB0, EvoNorm2dB1, EvoNorm2dB2, EvoNorm2dS0, EvoNorm2dS1, EvoNorm2dS2
from timm.layers.filter_response_norm import FilterResponseNormAct2d, FilterResponseNormTlu2d
from timm.layers.norm import RmsNorm, RmsNorm2d, RmsNorm2dFp32, RmsNormFp32, SimpleNorm, SimpleNorm2d
from timm.layers.norm_act import FrozenBatchNormAct2d
from timm.models import resnet, resnetv2
from torch import nn

from buildup.graph.network import BlockStyle, Norm
from buildup.models.trace import Call

EXPANSIONS: dict[type[nn.Module], int] = {
    resnet.BasicBlock: 1,
    resnet.Bottleneck: 4,
    resnetv2.Bottleneck: 4,
    resnetv2.PreActBasic: 1,
    resnetv2.PreActBottleneck: 4,
}
"""The blocks that the paper says the width of attention for: their channels divided by this (paper.md 2.2)."""

EVO_NORMS = (EvoNorm2dB0, EvoNorm2dB1, EvoNorm2dB2, EvoNorm2dS0, EvoNorm2dS1, EvoNorm2dS2)
RMS_NORMS = (RmsNorm, RmsNorm2d, RmsNorm2dFp32, RmsNormFp32, SimpleNorm, SimpleNorm2d)
STANDARDISED = (std_conv.StdConv2d, std_conv.StdConv2dSame, std_conv.ScaledStdConv2d, std_conv.ScaledStdConv2dSame)

WITHOUT = Norm(kind="layer", eps=1e-6)
"""What attention is normalised by in a base without norms: nothing else would keep its logits in bounds."""


def find_form(call: Call, root: Call) -> BlockStyle:
    """The form of a block; a norm that it lacks, as bare convolutions do, is looked for in the whole model."""
    steps = list(_steps(call))
    norms = [norm for norm in map(norm_of, (step.module for step in steps)) if norm]
    norms += [norm for norm in map(norm_of, root.module.modules()) if norm]
    weighing = [step for step in steps if any(True for _ in step.module.parameters())]
    scale = _scale(call)
    act = _last_act(call)
    starts_with_norm = norm_of(steps[0].module) is not None or _is_act(steps[0].module)
    ends_in_norm = bool(weighing) and norm_of(weighing[-1].module) is not None
    return BlockStyle(
        order="post" if act or (ends_in_norm and not starts_with_norm and not scale) else "pre",
        norm=norms[0] if norms else WITHOUT,
        act=act,
        drop_path=_named(call, "drop_path"),
        scale=scale,
        standardised=next((step.module.eps for step in steps if isinstance(step.module, STANDARDISED)), None),
        channels_last=_is_channels_last(call),
    )


def norm_of(module: Any) -> Norm | None:
    """What a module normalises by; None where it does not."""
    eps: Any = getattr(module, "eps", None)
    if isinstance(module, nn.modules.batchnorm._BatchNorm | FrozenBatchNormAct2d):
        return Norm(kind="batch", eps=eps, momentum=getattr(module, "momentum", None))
    if isinstance(module, nn.GroupNorm):
        return Norm(kind="group", eps=eps, groups=module.num_groups)
    if isinstance(module, EVO_NORMS):
        # Without its activation it would not normalise at all; the norm inside it is a group norm.
        return Norm(kind="group", eps=eps, groups=getattr(module, "groups", 32))
    if isinstance(module, FilterResponseNormTlu2d | FilterResponseNormAct2d):
        return Norm(kind="frn", eps=eps)
    if isinstance(module, nn.LayerNorm):
        return Norm(kind="layer", eps=eps)
    if isinstance(module, RMS_NORMS):
        return Norm(kind="rms", eps=eps)
    return None


def _steps(call: Call) -> Iterator[Call]:
    """The modules that a block is made of, in order: norms as a whole, and what has nothing inside."""
    if norm_of(call.module) or (not call.calls and not isinstance(call.module, nn.Identity)):
        yield call
        return
    for inner in call.calls:
        yield from _steps(inner)


def _last_act(call: Call) -> str:
    """The path inside a block of the activation that its result comes from."""
    last = call
    while last.calls and last.calls[-1].outputs_of is call.outputs_of:
        last = last.calls[-1]
    return _inside(call, last.path) if last is not call and _is_act(last.module) else ""


def _is_act(module: nn.Module) -> bool:
    home = type(module).__module__
    return home.endswith(("nn.modules.activation", "layers.activations", "layers.activations_me"))


def _scale(call: Call) -> str:
    """The path inside a block of the last weights that scale its residual branch: one for all, or one a channel."""
    channels = set(call.outputs_of.shape[1:]) if call.outputs_of is not None else set()
    found = ""
    for path, module in call.module.named_modules():
        if module is not call.module and "Scale" not in type(module).__name__:
            continue
        for name, weight in module.named_parameters(recurse=False):
            plain = isinstance(module, nn.Conv2d | nn.Linear) or norm_of(module)
            if not plain and (weight.numel() == 1 or weight.numel() in channels):
                found = f"{path}.{name}".removeprefix(".")
    return found


def _named(call: Call, name: str) -> str:
    """The path inside a block of the last of its modules of a name, which may be None in a base as timm makes it."""
    paths = [path for path, _ in call.module.named_modules() if name in path.rpartition(".")[2]]
    return paths[-1] if paths else name if hasattr(call.module, name) else ""


def _is_channels_last(call: Call) -> bool:
    """Whether maps are height, width, channels: pictures are square here, so two equal sides tell."""
    assert call.outputs_of is not None
    _, first, second, third = call.outputs_of.shape
    return first == second != third


def _inside(call: Call, path: str) -> str:
    return path.removeprefix(call.path).removeprefix(".")
