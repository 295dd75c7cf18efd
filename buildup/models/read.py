"""A timm model as a network: its stages, its blocks and their style.

The model is traced twice on PyTorch's meta device. At its own input size the dataflow shows stages, blocks, block style
and the small stem; at the requested size it shows the shapes. Nothing here depends on a family of models.
"""

from collections.abc import Iterator, Mapping
from typing import Any, Literal

import torch
from timm.layers import std_conv
from timm.layers.evo_norm import EvoNorm2dB0, EvoNorm2dB1, EvoNorm2dB2, EvoNorm2dS0, EvoNorm2dS1, EvoNorm2dS2
from timm.layers.filter_response_norm import FilterResponseNormAct2d, FilterResponseNormTlu2d
from timm.layers.norm import RmsNorm, RmsNorm2d, RmsNorm2dFp32, RmsNormFp32, SimpleNorm, SimpleNorm2d
from timm.layers.norm_act import FrozenBatchNormAct2d
from timm.models import resnet, resnetv2
from torch import Tensor, nn

from buildup.errors import BaseError
from buildup.graph.base_name import RESERVED_ARGUMENTS, parse_base
from buildup.graph.network import Block, BlockStyle, Network, Norm, Shape, Shrink, Stage
from buildup.models.bases import PRUNED, TracedBase, create_on_meta, trace_base
from buildup.models.stages import FoundStage, obstacle
from buildup.models.stem import GAIN, apply_small_stem, find_small_stem
from buildup.models.trace import Call, trace_calls

SMALL_SIDE = 64
"""Images up to this side get the small stem, unless the space says otherwise."""

EXPANSIONS: dict[type[nn.Module], int] = {
    resnet.BasicBlock: 1,
    resnet.Bottleneck: 4,
    resnetv2.Bottleneck: 4,
    resnetv2.PreActBasic: 1,
    resnetv2.PreActBottleneck: 4,
}
"""The blocks for which the paper gives the width of attention: their channels divided by this."""

EVO_NORMS = (EvoNorm2dB0, EvoNorm2dB1, EvoNorm2dB2, EvoNorm2dS0, EvoNorm2dS1, EvoNorm2dS2)
RMS_NORMS = (RmsNorm, RmsNorm2d, RmsNorm2dFp32, RmsNormFp32, SimpleNorm, SimpleNorm2d)
STANDARDISED = (std_conv.StdConv2d, std_conv.StdConv2dSame, std_conv.ScaledStdConv2d, std_conv.ScaledStdConv2dSame)

DEFAULT_NORM = Norm(kind="layer", eps=1e-6)
"""The norm of attention blocks in a base without norms: without one, the logits of attention are not bounded."""


def read_network(
    base: str,
    *,
    input_shape: Shape,
    num_classes: int,
    stem: Literal["auto", "small", "base"] = "auto",
    base_args: Mapping[str, Any] | None = None,
) -> Network:
    """The network of a timm model, with all blocks as timm makes them.

    Args:
        base: The model's name in timm, with arguments of the model as `parse_base` reads them. A pretrained tag
            (`resnet50.a1_in1k`) is checked and dropped, since weights are no part of a network.
        input_shape: The shape of the images; the shapes of all blocks follow from it.
        num_classes: The size of the classifier.
        stem: `auto` is `small` at inputs of up to 64 px if the base can have the small stem, else `base`.
        base_args: Further arguments of timm's `create_model`.
    """
    asked, written = parse_base(base)
    base, pruned = PRUNED.get(asked, (asked, {}))
    arguments = {**pruned, **written, **(base_args or {})}
    if reserved := sorted(arguments.keys() & RESERVED_ARGUMENTS):
        raise BaseError(f"base_args of {base} has {', '.join(reserved)}, which the network itself says.")
    traced = trace_base(base, arguments)
    full_arguments = {"in_chans": input_shape[0], "num_classes": num_classes, **arguments}
    assert traced.root.input is not None
    # A base for small images has a stem for them: what it halves first are its stages.
    made_small = traced.root.input.shape[-1] <= SMALL_SIDE
    if stem == "small" and made_small:
        raise BaseError(
            f"{traced.name} is made for small images and has a stem for them. Use stem: auto or stem: base."
        )
    shrinks = not made_small and (stem == "small" or (stem == "auto" and max(input_shape[1:]) <= SMALL_SIDE))
    shrunk: Mapping[str, Shrink] = find_small_stem(traced.root) if shrinks else {}
    calls = _calls_with_small_stem(traced, full_arguments, input_shape, shrunk) if shrunk else None
    if calls is None:
        if stem == "small":
            raise BaseError(
                f"{traced.name} can't be given the small stem: its first halvings are no convolutions or poolings. "
                "Use stem: base, or stem: auto, which takes the small stem only where there can be one."
            )
        shrunk, calls = {}, _block_calls(traced, full_arguments, input_shape, {})
    # Which block reads the output of which, including paths around blocks as in CSPNet or DLA.
    inputs = {path: call.input_blocks for path, call in calls.items() if path} | {"head": calls[""].output_blocks}
    order = ["stem", *inputs]
    return Network(
        base=traced.name,
        base_args=arguments,
        stem="small" if shrunk else "base",
        shrunk=tuple(shrunk.items()),
        input_shape=input_shape,
        num_classes=num_classes,
        stages=tuple(_stage(traced, stage, calls) for stage in traced.stages),
        edges=tuple((source, path) for path, read in inputs.items() for source in sorted(read, key=order.index)),
    )


def _block_calls(
    traced: TracedBase, arguments: dict[str, Any], input_shape: Shape, shrunk: Mapping[str, Shrink]
) -> dict[str, Call]:
    """The calls of all blocks at the requested size, by path; the path of the model's own call is empty."""
    model = create_on_meta(traced.name, arguments)
    apply_small_stem(model, shrunk)
    blocks = {call.path for stage in traced.stages for call in stage.blocks}
    root = trace_calls(traced.name, model, input_shape, blocks)
    return {call.path: call for call in root.inside if call is root or call.path in blocks}


def _calls_with_small_stem(
    traced: TracedBase, arguments: dict[str, Any], input_shape: Shape, shrunk: Mapping[str, Shrink]
) -> dict[str, Call] | None:
    """`_block_calls` with the small stem; None if the model fails with it, or its last maps do not become larger."""
    try:
        calls = _block_calls(traced, arguments, input_shape, shrunk)
    except BaseError:
        return None
    last = traced.stages[-1].blocks[-1]
    before, after = last.output, calls[last.path].output
    assert before is not None
    assert after is not None
    assert traced.root.input is not None
    usual = before.shape[2] / traced.root.input.shape[2] * input_shape[1]
    return calls if after.shape[2] > usual * GAIN / 1.5 else None


def _stage(traced: TracedBase, stage: FoundStage, calls: dict[str, Call]) -> Stage:
    """A stage from its calls at the base's own size, and all calls at the requested size."""
    blocks = []
    for own in stage.blocks:
        call, style = calls[own.path], read_style(own, traced.root)
        block = Block(
            path=own.path,
            module=type(own.module).__name__,
            in_shape=_shape(call.input, style.channels_last),
            out_shape=_shape(call.output, style.channels_last),
            params=sum(weight.numel() for weight in own.module.parameters()),
            expansion=EXPANSIONS.get(type(own.module)),
            style=style,
            fixed=(obstacle(own) or "") if own.keeps_shape else "",
        )
        blocks.append(block)
    last = stage.blocks[-1]
    grows = obstacle(last) is None and _grows(traced.root, last)
    return Stage(name=stage.name, blocks=tuple(blocks), grows=grows)


def _shape(tensor: Tensor | None, channels_last: bool) -> Shape:
    if tensor is None or tensor.ndim != 4:
        return (0, 0, 0)
    _, *sides = tensor.shape
    channels, height, width = (sides[2], *sides[:2]) if channels_last else sides
    return channels, height, width


def _grows(root: Call, last: Call) -> bool:
    """Whether the base would run a module added after the last block of a stage; tried out with a probe if unclear."""
    parent_path, _, name = last.path.rpartition(".")
    parent: Any = root.module.get_submodule(parent_path)
    if not name[-1].isdigit() or list(parent.named_children())[-1][0] != name:
        return False
    if type(parent) is nn.Sequential:
        return True
    call = last.parent
    while call is not None and call.path != parent_path:
        call = call.parent
    if call is None or call.input is None or call.num_inputs != 1:
        return False
    ran: list[bool] = []
    probe = nn.Identity()
    probe.register_forward_hook(lambda *_: ran.append(True))
    parent.add_module("probe", probe)
    try:
        with torch.no_grad():
            parent(call.input)
    finally:
        del parent.probe
    return bool(ran)


def read_style(call: Call, root: Call) -> BlockStyle:
    """The style of a block: its norm, and the order of norms, activations and sum.

    A block without a norm gets the first norm of the whole model.
    """
    steps = list(_steps(call))
    norms = [norm for norm in map(norm_of, (step.module for step in steps)) if norm]
    norms += [norm for norm in map(norm_of, root.module.modules()) if norm]
    weighted = [step for step in steps if any(True for _ in step.module.parameters())]
    scale = _scale(call)
    last = call
    while last.calls and last.calls[-1].output is call.output:
        last = last.calls[-1]
    # The activation that computes the block's output, if no other module does.
    act = last.path.removeprefix(call.path).removeprefix(".") if last is not call and _is_act(last.module) else ""
    starts_with_norm = norm_of(steps[0].module) is not None or _is_act(steps[0].module)
    ends_in_norm = bool(weighted) and norm_of(weighted[-1].module) is not None
    drop_paths = [path for path, _ in call.module.named_modules() if "drop_path" in path.rpartition(".")[2]]
    # A block without drop path has None in the place of the module.
    drop_path = "drop_path" if hasattr(call.module, "drop_path") else ""
    assert call.output is not None
    _, first, second, third = call.output.shape
    return BlockStyle(
        order="post" if act or (ends_in_norm and not starts_with_norm and not scale) else "pre",
        norm=norms[0] if norms else DEFAULT_NORM,
        act=act,
        drop_path=drop_paths[-1] if drop_paths else drop_path,
        scale=scale,
        standardised=next((step.module.eps for step in steps if isinstance(step.module, STANDARDISED)), None),
        channels_last=first == second != third,  # the image is square
    )


def norm_of(module: Any) -> Norm | None:
    """The norm that a module computes; None if it does not normalise."""
    eps: Any = getattr(module, "eps", None)
    if isinstance(module, nn.modules.batchnorm._BatchNorm | FrozenBatchNormAct2d):
        return Norm(kind="batch", eps=eps, momentum=getattr(module, "momentum", None))
    if isinstance(module, nn.GroupNorm):
        return Norm(kind="group", eps=eps, groups=module.num_groups)
    if isinstance(module, EVO_NORMS):
        # Some of these normalise only together with their activation. The norm inside them is a group norm.
        return Norm(kind="group", eps=eps, groups=getattr(module, "groups", 32))
    if isinstance(module, FilterResponseNormTlu2d | FilterResponseNormAct2d):
        return Norm(kind="frn", eps=eps)
    if isinstance(module, nn.LayerNorm):
        return Norm(kind="layer", eps=eps)
    if isinstance(module, RMS_NORMS):
        return Norm(kind="rms", eps=eps)
    return None


def _steps(call: Call) -> Iterator[Call]:
    """The elementary modules of a block in order: norms as a whole, and modules without submodules."""
    if norm_of(call.module) or (not call.calls and not isinstance(call.module, nn.Identity)):
        yield call
        return
    for inner in call.calls:
        yield from _steps(inner)


def _is_act(module: nn.Module) -> bool:
    home = type(module).__module__
    return home.endswith(("nn.modules.activation", "layers.activations", "layers.activations_me"))


def _scale(call: Call) -> str:
    """The path in a block of the last weights that scale its residual branch, one or one per channel; empty if none."""
    channels = set(call.output.shape[1:]) if call.output is not None else set()
    found = ""
    for path, module in call.module.named_modules():
        if module is not call.module and "Scale" not in type(module).__name__:
            continue
        for name, weight in module.named_parameters(recurse=False):
            plain = isinstance(module, nn.Conv2d | nn.Linear) or norm_of(module)
            if not plain and (weight.numel() == 1 or weight.numel() in channels):
                found = f"{path}.{name}".removeprefix(".")
    return found
