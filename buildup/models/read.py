"""A timm model as a network: its stages and blocks, found and traced without weights.

Nothing here knows a family of models. The model runs once on the meta device with a picture of its own size, which
tells blocks, stages, habits and the small stem; and once more with the size that is asked for, which tells the shapes.
"""

from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn

from buildup.errors import BaseError
from buildup.graph.network import Block, Network, Shape, Shrink, Stage
from buildup.models.find import Found, create_on_meta, find
from buildup.models.read_style import EXPANSIONS, find_form
from buildup.models.stages import FoundStage, obstacle
from buildup.models.stem import GAIN, find_shrunk, shrink
from buildup.models.trace import Call, trace

SMALL = 64
"""Images up to this side get the small stem, unless the space says otherwise."""

TAKEN = {"device", "features_only", "in_chans", "num_classes", "pretrained"}
"""Arguments of timm's `create_model` that are no settings of a base."""


def read(
    base: str,
    *,
    input_shape: Shape,
    num_classes: int,
    stem: Literal["auto", "small", "base"] = "auto",
    base_args: Mapping[str, Any] | None = None,
) -> Network:
    """The network of a timm model, all of its blocks as timm makes them.

    Args:
        base: The model's name in timm; a pretrained tag (`resnet50.a1_in1k`) is checked and dropped, since weights
            are no part of a network.
        input_shape: What the shapes of all blocks are traced with.
        num_classes: The size of the classifier.
        stem: `auto` is `small` at inputs of up to 64 px where the base lets itself be given one, else `base`.
        base_args: What timm's `create_model` gets beside the name.
    """
    arguments = dict(base_args or {})
    if taken := sorted(arguments.keys() & TAKEN):
        raise BaseError(f"base_args of {base} has {', '.join(taken)}, which the network itself says.")
    found = find(base, arguments)
    asked = {"in_chans": input_shape[0], "num_classes": num_classes, **arguments}
    wants_small = stem == "small" or (stem == "auto" and max(input_shape[1:]) <= SMALL)
    shrunk = find_shrunk(found.root) if wants_small else {}
    seen = _seen_small(found, asked, input_shape, shrunk) if shrunk else None
    if stem == "small" and seen is None:
        raise BaseError(
            f"{found.name} can't be given the small stem: its first halvings are no convolutions or poolings. "
            "Use stem: base, or stem: auto, which takes the small stem only where there can be one."
        )
    small = seen is not None
    seen = seen or _seen(found, asked, input_shape, {})
    return Network(
        base=found.name,
        base_args=arguments,
        stem="small" if small else "base",
        shrunk=tuple(shrunk.items()) if small else (),
        input_shape=input_shape,
        num_classes=num_classes,
        stages=tuple(_stage(found, stage, seen) for stage in found.stages),
        edges=_edges(seen),
    )


Seen = dict[str, Call]
"""The calls of all blocks in the order in which they start, and that of the model itself with an empty path."""


def _seen(found: Found, arguments: dict[str, Any], input_shape: Shape, shrunk: Mapping[str, Shrink]) -> Seen:
    """What the blocks of a base do with a picture of the size that is asked for."""
    model = create_on_meta(found.name, arguments)
    shrink(model, shrunk)
    blocks = {call.path for stage in found.stages for call in stage.blocks}
    root = trace(found.name, model, input_shape, blocks)
    return {call.path: call for call in root.inside if call is root or call.path in blocks}


def _seen_small(
    found: Found, arguments: dict[str, Any], input_shape: Shape, shrunk: Mapping[str, Shrink]
) -> Seen | None:
    """The same with the small stem; None where the base does not become what the stem is for."""
    try:
        seen = _seen(found, arguments, input_shape, shrunk)
    except BaseError:
        return None
    before, after = found.stages[-1].blocks[-1].outputs_of, seen[found.stages[-1].blocks[-1].path].outputs_of
    assert before is not None
    assert after is not None
    assert found.root.inputs_of is not None
    usual = before.shape[2] / found.root.inputs_of.shape[2] * input_shape[1]
    return seen if after.shape[2] > usual * GAIN / 1.5 else None


def _edges(seen: Seen) -> tuple[tuple[str, str], ...]:
    """Which block reads which block's output; what goes around a block, as in CSPNet or DLA, is an edge, too."""
    reads = {path: call.reads for path, call in seen.items() if path} | {"head": seen[""].gave_from}
    order = ["stem", *reads]
    return tuple((source, path) for path, blocks in reads.items() for source in sorted(blocks, key=order.index))


def _shape(tensor: Tensor | None, channels_last: bool) -> Shape:
    if tensor is None or tensor.ndim != 4:
        return (0, 0, 0)
    _, *sides = tensor.shape
    channels, height, width = (sides[2], *sides[:2]) if channels_last else sides
    return channels, height, width


def _stage(found: Found, stage: FoundStage, seen: Seen) -> Stage:
    last = stage.blocks[-1]
    return Stage(
        name=stage.name,
        blocks=tuple(_block(found, call, seen[call.path]) for call in stage.blocks),
        grows=obstacle(last) is None and _grows(found.root, last),
    )


def _block(found: Found, own: Call, seen: Call) -> Block:
    """A block by what it does at the base's own size, and at the size that is asked for."""
    style = find_form(own, found.root)
    return Block(
        path=own.path,
        module=type(own.module).__name__,
        in_shape=_shape(seen.inputs_of, style.channels_last),
        out_shape=_shape(seen.outputs_of, style.channels_last),
        params=sum(weight.numel() for weight in own.module.parameters()),
        expansion=EXPANSIONS.get(type(own.module)),
        style=style,
        fixed=(obstacle(own) or "") if own.keeps_shape else "",
    )


def _grows(root: Call, last: Call) -> bool:
    """Whether a module set behind the last block would be run, found by trying where that is not plain."""
    parent_path, _, name = last.path.rpartition(".")
    parent: Any = root.module.get_submodule(parent_path)
    if not name[-1].isdigit() or list(parent.named_children())[-1][0] != name:
        return False
    if type(parent) is nn.Sequential:
        return True
    call = next((call for call in last.above if call.path == parent_path), None)
    if call is None or call.inputs_of is None or call.given != 1:
        return False
    ran: list[bool] = []
    probe = nn.Identity()
    probe.register_forward_hook(lambda *_: ran.append(True))
    parent.add_module("probe", probe)
    try:
        with torch.no_grad():
            parent(call.inputs_of)
    finally:
        del parent.probe
    return bool(ran)
